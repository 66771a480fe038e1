//! AWS's wire forms: what comes in as parameters, what goes out as XML or JSON, and how errors look.
//!
//! Nothing here knows a service; services know only these types.

pub(crate) mod error;
pub(crate) mod ids;
pub(crate) mod params;
pub(crate) mod xml;

pub(crate) use error::ApiError;
pub(crate) use params::Params;
pub(crate) use xml::Xml;

/// A timestamp as EC2, Auto Scaling and ELB write it: UTC with milliseconds.
pub(crate) fn iso(at: jiff::Timestamp) -> String {
    at.strftime("%Y-%m-%dT%H:%M:%S.%3fZ").to_string()
}
