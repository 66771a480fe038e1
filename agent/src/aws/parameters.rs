//! The parameter store: three calls, each sent once.
//!
//! A fleet's calls that come too many must thin out (see `registry::pace`), and [`crate::lifecycle`] decides when to call again.

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use async_trait::async_trait;
use serde::Deserialize;
use serde_json::json;

use super::Aws;
use super::call::{Protocol, Service};
use crate::registry::Registry;

const SERVICE: Service = Service {
    name: "ssm",
    variable: "AWS_ENDPOINT_URL_SSM",
    protocol: Protocol::Json {
        prefix: "AmazonSSM",
    },
};

/// The answer of GetParameters
/// (<https://docs.aws.amazon.com/systems-manager/latest/APIReference/API_GetParameters.html>).
#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Found {
    #[serde(default)]
    parameters: Vec<Parameter>,
}

#[derive(Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Parameter {
    name: String,
    value: String,
}

#[async_trait]
impl Registry for Aws {
    async fn put(&self, parameter: &str, value: &str) -> Result<()> {
        let body = json!({"Name": parameter, "Value": value, "Type": "String", "Overwrite": true});
        self.call(&SERVICE, "PutParameter", body.to_string())
            .await
            .with_context(|| format!("cannot write parameter {parameter}"))?;
        Ok(())
    }

    async fn get(&self, parameters: &[String]) -> Result<BTreeMap<String, String>> {
        let body = json!({ "Names": parameters });
        let answer = self.call(&SERVICE, "GetParameters", body.to_string()).await;
        let what = "cannot read the records of other instances";
        let found: Found = serde_json::from_str(&answer.context(what)?).context(what)?;
        let pairs = found.parameters.into_iter();
        Ok(pairs.map(|found| (found.name, found.value)).collect())
    }

    async fn remove(&self, parameter: &str) -> Result<()> {
        let body = json!({ "Name": parameter });
        match self
            .call(&SERVICE, "DeleteParameter", body.to_string())
            .await
        {
            Err(error) if !error.is("ParameterNotFound") => {
                Err(error).with_context(|| format!("cannot remove parameter {parameter}"))
            }
            _ => Ok(()),
        }
    }
}
