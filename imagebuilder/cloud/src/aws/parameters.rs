//! SSM parameters.

use async_trait::async_trait;
use aws_sdk_ssm::types::ParameterType;

use super::error::failed;
use crate::ids::ImageId;
use crate::{Answer, Kind, Owned, Parameter, Parameters};

pub(super) struct Ssm(pub(super) aws_sdk_ssm::Client);

/// Names in one GetParameters, the most there may be.
const GET_PARAMETERS: usize = 10;

fn parameter(answer: &aws_sdk_ssm::types::Parameter) -> Parameter {
    Parameter {
        name: answer.name().unwrap_or_default().to_owned(),
        value: answer.value().unwrap_or_default().to_owned(),
        version: answer.version(),
    }
}

#[async_trait]
impl Parameters for Ssm {
    async fn parameter(&self, name: &str) -> Answer<Option<Parameter>> {
        let answer = self
            .0
            .get_parameter()
            .name(name)
            .send()
            .await
            .map_err(failed(format!("read parameter {name}")));
        match answer {
            Ok(answer) => Ok(answer.parameter().map(parameter)),
            Err(error) if error.kind == Kind::NotFound => Ok(None),
            Err(error) => Err(error),
        }
    }

    async fn named(&self, names: &[String]) -> Answer<Vec<Parameter>> {
        let mut found = Vec::new();
        for names in names.chunks(GET_PARAMETERS) {
            let answer = self
                .0
                .get_parameters()
                .set_names(Some(names.to_vec()))
                .send()
                .await
                .map_err(failed(format!("read {} parameters", names.len())))?;
            found.extend(answer.parameters().iter().map(parameter));
        }
        Ok(found)
    }

    async fn point(&self, name: &str, image: &ImageId) -> Answer<()> {
        self.0
            .put_parameter()
            .name(name)
            .r#type(ParameterType::String)
            .data_type("aws:ec2:image")
            .value(image.as_str())
            .overwrite(true)
            .send()
            .await
            .map_err(failed(format!("point parameter {name} at {image}")))?;
        Ok(())
    }

    async fn write(&self, name: &str, value: &str) -> Answer<()> {
        self.0
            .put_parameter()
            .name(name)
            .r#type(ParameterType::String)
            .value(value)
            .overwrite(true)
            .send()
            .await
            .map_err(failed(format!("write parameter {name}")))?;
        Ok(())
    }

    async fn delete(&self, name: &Owned<String>) -> Answer<()> {
        let answer = self
            .0
            .delete_parameter()
            .name(name.id())
            .send()
            .await
            .map_err(failed(format!("delete parameter {name}")));
        match answer {
            Err(error) if error.kind != Kind::NotFound => Err(error),
            _ => Ok(()),
        }
    }
}
