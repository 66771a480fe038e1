//! The group's launch template.

use super::*;

impl AwsState {
    /// Adds a version that was made by hand.
    pub fn add_version(&mut self, number: u64, image: &str) {
        self.template.versions.push(TemplateVersion {
            number,
            image: TemplateImage::Literal(ImageId::parse(image).unwrap()),
            instance_type: Some("t3.micro".to_owned()),
            description: "by hand".to_owned(),
            shape: "shape".to_owned(),
        });
        self.template.latest = number;
    }

    pub(super) fn version(&self, number: u64) -> Option<&TemplateVersion> {
        let mut versions = self.template.versions.iter();
        versions.find(|version| version.number == number)
    }
}

#[async_trait]
impl LaunchTemplates for InMemoryAws {
    async fn template(&self, _id: &str) -> Answer<Option<Template>> {
        self.read("template", |aws| {
            Ok(aws.template_exists.then(|| aws.template.clone()))
        })
        .await
    }

    async fn make_version(&self, new: &NewVersion) -> Answer<Owned<TemplateRef>> {
        let owned = |version| {
            Owned::returned(TemplateRef {
                id: new.template_id.clone(),
                version,
            })
        };
        self.change("make_version", |aws| {
            if let Some(number) = aws.tokens.get(&new.token) {
                return Ok(owned(*number));
            }
            let Some(source) = aws.version(new.source) else {
                return Err(not_found("make a version"));
            };
            let number = aws.template.latest + 1;
            let made = TemplateVersion {
                number,
                image: TemplateImage::Literal(new.image.clone()),
                instance_type: source.instance_type.clone(),
                description: new.description.clone(),
                shape: aws
                    .misshapen
                    .clone()
                    .unwrap_or_else(|| source.shape.clone()),
            };
            aws.template.versions.push(made);
            aws.template.latest = number;
            aws.tokens.insert(new.token.clone(), number);
            Ok(owned(number))
        })
        .await
    }

    async fn delete_version(&self, version: &Owned<TemplateRef>) -> Answer<()> {
        self.change("delete_version", |aws| {
            let number = version.id().version;
            assert_ne!(number, aws.template.default, "EC2 refuses it");
            aws.template.versions.retain(|one| one.number != number);
            Ok(())
        })
        .await
    }
}
