//! Spot requests: how a launch asks for one.
//!
//! Rule: what `InstanceMarketOptions` requests is supported or refused by name, in a request, a template and a group
//! alike: all use [`SpotRequest::read`]. One-time requests that end with their instance are supported; there are no
//! prices and no capacity limits, so every request is fulfilled at once, and the dial `spot-reclaim` interrupts.
//!
//! Shapes: <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SpotMarketOptions.html>,
//! <https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_SpotInstanceRequest.html>. Errors are EC2's where they are
//! published, and `UnsupportedOperation` for what this cloud does not support.

use serde::{Deserialize, Serialize};

use crate::ids::{Id as _, SpotRequestId};
use crate::wire::{ApiError, Params};

/// The resource type of a request, for tags.
pub(super) const KIND: &str = "spot-instances-request";
/// EC2 refuses a maximum price below this, USD an hour.
const LEAST_PRICE: f64 = 0.001;

/// The one-time request that launched an instance.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct SpotRequest {
    /// Its id.
    pub(crate) id: SpotRequestId,
    /// The maximum price, USD an hour, as it was given.
    pub(super) max_price: Option<String>,
    /// Whether CancelSpotInstanceRequests named it.
    pub(super) cancelled: bool,
}

impl SpotRequest {
    /// Reads a launch's `InstanceMarketOptions`; `None` for an instance on demand.
    ///
    /// # Errors
    /// `MissingParameter`, `InvalidParameterValue` and `InvalidParameterCombination` as of EC2; `UnsupportedOperation`
    /// for what this cloud does not support.
    pub(super) fn read(params: &Params) -> Result<Option<Self>, ApiError> {
        let market = params.structure("InstanceMarketOptions");
        if market.is_empty() {
            return Ok(None);
        }
        let options = market.structure("SpotOptions");
        match market.required("MarketType")? {
            "spot" => {}
            "on-demand" if options.is_empty() => return Ok(None),
            "on-demand" => {
                return Err(ApiError::new(
                    "InvalidParameterCombination",
                    "SpotOptions cannot be specified when the MarketType is set to 'on-demand'.",
                ));
            }
            kind @ ("capacity-block" | "interruptible-capacity-reservation") => {
                return Err(unsupported("MarketType", kind));
            }
            other => {
                return Err(ApiError::invalid_value(
                    "marketType",
                    other,
                    "expecting spot, on-demand, capacity-block or interruptible-capacity-reservation",
                ));
            }
        }
        for (name, value) in market.iter() {
            let known = name == "MarketType" || name.starts_with("SpotOptions.");
            if !known {
                return Err(unsupported(name, value));
            }
        }
        Self::of(&options).map(Some)
    }

    fn of(options: &Params) -> Result<Self, ApiError> {
        for (name, value) in options.iter() {
            match name {
                "BlockDurationMinutes" => {
                    return Err(ApiError::new(
                        "InvalidParameterValue",
                        "BlockDurationMinutes is not a valid parameter.",
                    ));
                }
                "InstanceInterruptionBehavior" | "MaxPrice" | "SpotInstanceType" | "ValidUntil" => {
                }
                _ => return Err(unsupported(&format!("SpotOptions.{name}"), value)),
            }
        }
        let combination = |text: String| ApiError::new("InvalidParameterCombination", text);
        let behaviour = options
            .text("InstanceInterruptionBehavior")
            .unwrap_or("terminate");
        if !["hibernate", "stop", "terminate"].contains(&behaviour) {
            return Err(ApiError::invalid_value(
                "instanceInterruptionBehavior",
                behaviour,
                "expecting hibernate, stop or terminate",
            ));
        }
        match options.text("SpotInstanceType").unwrap_or("one-time") {
            "one-time" => {}
            "persistent" if behaviour == "terminate" => {
                return Err(combination(
                    "The terminate InstanceInterruptionBehavior is not supported when requestType is set to persistent."
                        .to_owned(),
                ));
            }
            "persistent" => return Err(unsupported("SpotOptions.SpotInstanceType", "persistent")),
            other => {
                return Err(ApiError::invalid_value(
                    "spotInstanceType",
                    other,
                    "expecting one-time or persistent",
                ));
            }
        }
        if behaviour != "terminate" {
            return Err(combination(format!(
                "The request with type 'one-time' is not supported when instanceInterruptionBehavior is set to '{behaviour}'."
            )));
        }
        if options.has("ValidUntil") {
            return Err(combination(
                "The parameter validUntil cannot be specified when the SpotRequestType is set to 'one-time'."
                    .to_owned(),
            ));
        }
        let max_price = options.string("MaxPrice");
        if let Some(price) = &max_price {
            let number = price.parse().ok().filter(|number: &f64| number.is_finite());
            if number.is_none_or(|number| number < LEAST_PRICE) {
                return Err(ApiError::invalid_value(
                    "maxPrice",
                    price,
                    "expecting at least 0.001",
                ));
            }
        }
        Ok(Self {
            id: SpotRequestId::unchecked(""),
            max_price,
            cancelled: false,
        })
    }

    /// A copy with a new id, for one instance of the launch.
    #[must_use]
    pub(super) fn numbered(&self) -> Self {
        Self {
            id: SpotRequestId::fresh(),
            ..self.clone()
        }
    }
}

fn unsupported(name: &str, value: &str) -> ApiError {
    ApiError::new(
        "UnsupportedOperation",
        format!("InstanceMarketOptions.{name} ({value}) of a launch cannot be honoured here"),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn market_options_are_supported_or_refused_by_name() {
        const MARKET: &str = "InstanceMarketOptions.MarketType=spot";
        const OPTION: &str = "&InstanceMarketOptions.SpotOptions.";
        for (options, expected) in [
            ("", Ok(None)),
            (MARKET, Ok(Some(None))),
            ("+MaxPrice=0.0031", Ok(Some(Some("0.0031")))),
            (
                "+SpotInstanceType=one-time+InstanceInterruptionBehavior=terminate",
                Ok(Some(None)),
            ),
            ("InstanceMarketOptions.MarketType=on-demand", Ok(None)),
            (
                "InstanceMarketOptions.MarketType=capacity-block",
                Err("UnsupportedOperation: InstanceMarketOptions.MarketType (capacity-block)"),
            ),
            (
                "InstanceMarketOptions.MarketType=free",
                Err("InvalidParameterValue: Value (free) for parameter marketType"),
            ),
            (
                "InstanceMarketOptions.SpotOptions.MaxPrice=1",
                Err("MissingParameter: The request must contain the parameter MarketType"),
            ),
            (
                "InstanceMarketOptions.MarketType=on-demand&InstanceMarketOptions.SpotOptions.MaxPrice=1",
                Err("InvalidParameterCombination: SpotOptions cannot"),
            ),
            (
                "+SpotInstanceType=persistent",
                Err("InvalidParameterCombination: The terminate InstanceInterruptionBehavior"),
            ),
            (
                "+SpotInstanceType=persistent+InstanceInterruptionBehavior=stop",
                Err(
                    "UnsupportedOperation: InstanceMarketOptions.SpotOptions.SpotInstanceType (persistent)",
                ),
            ),
            (
                "+SpotInstanceType=twice",
                Err("InvalidParameterValue: Value (twice) for parameter spotInstanceType"),
            ),
            (
                "+InstanceInterruptionBehavior=stop",
                Err(
                    "InvalidParameterCombination: The request with type 'one-time' is not supported when \
                     instanceInterruptionBehavior is set to 'stop'.",
                ),
            ),
            (
                "+InstanceInterruptionBehavior=pause",
                Err("InvalidParameterValue: Value (pause)"),
            ),
            (
                "+ValidUntil=2030-01-01T00:00:00Z",
                Err(
                    "InvalidParameterCombination: The parameter validUntil cannot be specified when the \
                     SpotRequestType is set to 'one-time'.",
                ),
            ),
            (
                "+BlockDurationMinutes=60",
                Err("InvalidParameterValue: BlockDurationMinutes is not a valid parameter."),
            ),
            (
                "+MaxPrice=0.0001",
                Err("InvalidParameterValue: Value (0.0001) for parameter maxPrice"),
            ),
            ("+MaxPrice=much", Err("InvalidParameterValue: Value (much)")),
            ("+MaxPrice=NaN", Err("InvalidParameterValue: Value (NaN)")),
            (
                "+Haste=1",
                Err("UnsupportedOperation: InstanceMarketOptions.SpotOptions.Haste (1)"),
            ),
        ] {
            let form = if options.starts_with('+') {
                format!("{MARKET}{}", options.replace('+', OPTION))
            } else {
                options.to_owned()
            };
            let found = SpotRequest::read(&Params::parse(form.as_bytes()));
            let found = found.map(|request| request.map(|request| request.max_price));
            match (found, expected) {
                (Ok(found), Ok(expected)) => {
                    assert_eq!(
                        found,
                        expected.map(|price| price.map(str::to_owned)),
                        "{form}"
                    );
                }
                (Err(error), Err(expected)) => {
                    let text = format!("{}: {}", error.code, error.message);
                    assert!(text.starts_with(expected), "{form}: {text}");
                }
                (found, expected) => panic!("{form}: {found:?} instead of {expected:?}"),
            }
        }
    }
}
