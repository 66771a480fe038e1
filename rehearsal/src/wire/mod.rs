//! AWS's formats: requests as parameters, answers as XML or JSON, and errors.
//!
//! Nothing here depends on a service; services use these types only.

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
