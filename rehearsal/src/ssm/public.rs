//! Public parameters: those of Debian, which name its newest image of a release.

use serde_json::{Value, json};

use super::call::{Call, seconds};
use super::errors::not_found;
use super::names;
use crate::account::REGION;
use crate::wire::ApiError;

/// Where all public parameters are.
const PUBLIC: &str = "/aws/service/";
/// Where Debian publishes the ids of its images (<https://wiki.debian.org/Cloud/AmazonEC2Image>).
const DEBIAN: &str = "/aws/service/debian/release/";
/// What comes after the release.
const LATEST: &str = "/latest/amd64";

/// What a request for a public parameter gets; `None` for any other parameter.
pub(super) fn selected(call: &Call<'_>, name: &str) -> Option<Result<Value, ApiError>> {
    let (bare, selector) = names::split(name);
    bare.strip_prefix(PUBLIC)?;
    let found = || {
        let release = bare.strip_prefix(DEBIAN)?.strip_suffix(LATEST)?;
        let whole = !release.is_empty() && release.bytes().all(|byte| byte.is_ascii_digit());
        if !whole || selector.is_some_and(|version| version != "1") {
            return None;
        }
        call.images
            .newest_of_debian(&format!("debian-{release}-amd64-"))
    };
    let Some((image, created)) = found() else {
        return Some(Err(not_found()));
    };
    let mut shown = json!({
        "Name": bare,
        "Type": "String",
        "Value": image.as_ref() as &str,
        "Version": 1,
        "LastModifiedDate": seconds(created),
        "ARN": format!("arn:aws:ssm:{REGION}::parameter{bare}"),
        "DataType": "aws:ec2:image",
    });
    if let Some(selector) = selector {
        shown["Selector"] = json!(format!(":{selector}"));
    }
    Some(Ok(shown))
}
