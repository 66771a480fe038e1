//! EC2 launch templates.

use async_trait::async_trait;
use aws_sdk_ec2::types::{
    LaunchTemplateErrorCode, LaunchTemplateVersion, RequestLaunchTemplateData,
    ResponseLaunchTemplateData,
};
use sha2::{Digest as _, Sha256};

use super::error::{failed, incomplete};
use crate::ids::ImageId;
use crate::{
    Answer, CloudError, Kind, LaunchTemplates, NewVersion, Owned, Template, TemplateImage,
    TemplateRef, TemplateVersion,
};

pub(super) struct Ec2Templates(pub(super) aws_sdk_ec2::Client);

/// A number as the SDK has it; launch-template versions begin at 1.
fn number(number: Option<i64>) -> Option<u64> {
    number.and_then(|number| u64::try_from(number).ok())
}

fn image(data: Option<&ResponseLaunchTemplateData>) -> TemplateImage {
    match data.and_then(ResponseLaunchTemplateData::image_id) {
        None | Some("") => TemplateImage::Missing,
        Some(text) => ImageId::parse(text).map_or_else(
            |_| TemplateImage::Alias(text.to_owned()),
            TemplateImage::Literal,
        ),
    }
}

/// A digest of everything in a version but its image. The SDK hides user data from its debug text,
/// so it is added by name.
fn shape(data: Option<&ResponseLaunchTemplateData>) -> String {
    let Some(data) = data else {
        return String::new();
    };
    let mut rest = data.clone();
    rest.image_id = None;
    let text = format!("{rest:?} {:?}", rest.user_data());
    Sha256::digest(text)
        .iter()
        .map(|byte| format!("{byte:02x}"))
        .collect()
}

fn version(answer: &LaunchTemplateVersion) -> Option<TemplateVersion> {
    let data = answer.launch_template_data();
    Some(TemplateVersion {
        number: number(answer.version_number())?,
        image: image(data),
        instance_type: data
            .and_then(ResponseLaunchTemplateData::instance_type)
            .map(ToString::to_string),
        description: answer.version_description().unwrap_or_default().to_owned(),
        shape: shape(data),
    })
}

#[async_trait]
impl LaunchTemplates for Ec2Templates {
    async fn template(&self, id: &str) -> Answer<Option<Template>> {
        let mut pages = self
            .0
            .describe_launch_template_versions()
            .launch_template_id(id)
            .into_paginator()
            .items()
            .send();
        let mut versions = Vec::new();
        let mut default = 0;
        while let Some(answer) = pages.next().await {
            let answer =
                match answer.map_err(failed(format!("list versions of launch template {id}"))) {
                    Err(error) if error.kind == Kind::NotFound => return Ok(None),
                    answer => answer?,
                };
            let Some(version) = version(&answer) else {
                continue;
            };
            if answer.default_version() == Some(true) {
                default = version.number;
            }
            versions.push(version);
        }
        versions.sort_by_key(|version| version.number);
        let latest = versions.last().map_or(0, |version| version.number);
        Ok(Some(Template {
            versions,
            latest,
            default,
        }))
    }

    async fn make_version(&self, version: &NewVersion) -> Answer<Owned<TemplateRef>> {
        let operation = format!("make a version of launch template {}", version.template_id);
        let answer = self
            .0
            .create_launch_template_version()
            .launch_template_id(&version.template_id)
            .source_version(version.source.to_string())
            .version_description(&version.description)
            .client_token(&version.token)
            .launch_template_data(
                RequestLaunchTemplateData::builder()
                    .image_id(version.image.as_str())
                    .build(),
            )
            .send()
            .await
            .map_err(failed(&operation))?;
        number(
            answer
                .launch_template_version()
                .and_then(LaunchTemplateVersion::version_number),
        )
        .map(|number| {
            Owned::returned(TemplateRef {
                id: version.template_id.clone(),
                version: number,
            })
        })
        .ok_or_else(|| incomplete(&operation, "version number"))
    }

    /// The call succeeds as a whole and reports the result of each version:
    /// [DeleteLaunchTemplateVersions](https://docs.aws.amazon.com/AWSEC2/latest/APIReference/API_DeleteLaunchTemplateVersions.html).
    async fn delete_version(&self, version: &Owned<TemplateRef>) -> Answer<()> {
        let operation = format!("delete {version}");
        let answer = self
            .0
            .delete_launch_template_versions()
            .launch_template_id(&version.id().id)
            .versions(version.id().version.to_string())
            .send()
            .await
            .map_err(failed(&operation));
        let answer = match answer {
            Err(error) if error.kind == Kind::NotFound => return Ok(()),
            answer => answer?,
        };
        let refused = answer
            .unsuccessfully_deleted_launch_template_versions()
            .iter()
            .find_map(|item| item.response_error());
        let Some(refused) = refused else {
            return Ok(());
        };
        match refused.code() {
            Some(
                LaunchTemplateErrorCode::LaunchTemplateIdDoesNotExist
                | LaunchTemplateErrorCode::LaunchTemplateVersionDoesNotExist,
            ) => Ok(()),
            code => Err(CloudError::new(
                Kind::Invalid,
                operation,
                code.map_or("", |code| code.as_str()),
                refused.message().unwrap_or_default(),
            )),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_shape_is_everything_but_the_image() {
        let data = |image: &str, user_data: &str| {
            ResponseLaunchTemplateData::builder()
                .image_id(image)
                .user_data(user_data)
                .build()
        };
        let one = shape(Some(&data("ami-1", "a")));
        assert_eq!(one, shape(Some(&data("ami-2", "a"))));
        assert_ne!(one, shape(Some(&data("ami-1", "b"))));
    }

    #[test]
    fn an_image_is_an_id_an_alias_or_missing() {
        let of = |text: &str| {
            image(Some(
                &ResponseLaunchTemplateData::builder().image_id(text).build(),
            ))
        };
        assert_eq!(
            of("ami-1"),
            TemplateImage::Literal(ImageId::parse("ami-1").unwrap())
        );
        assert_eq!(
            of("resolve:ssm:/x"),
            TemplateImage::Alias("resolve:ssm:/x".into())
        );
        assert_eq!(image(None), TemplateImage::Missing);
    }
}
