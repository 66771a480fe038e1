//! Parameters: pointers, and the records of agents.

use super::*;

impl AwsState {
    /// Sets a pointer of the image `shop`, such as `candidate`.
    pub fn point(&mut self, pointer: &str, image: &str) {
        self.parameters
            .insert(format!("/imagebuilder/shop/{pointer}"), image.to_owned());
    }

    /// A pointer of the image `shop`.
    pub fn pointer(&self, pointer: &str) -> Option<&str> {
        let name = format!("/imagebuilder/shop/{pointer}");
        self.parameters.get(&name).map(String::as_str)
    }

    /// Writes the record of an instance's agent.
    pub(super) fn record(
        &mut self,
        image_name: &str,
        instance: &InstanceId,
        image: &ImageId,
        verdict: Verdict,
        reason: &str,
    ) {
        let record = Record {
            schema: self.schema.unwrap_or(SCHEMA),
            instance_id: instance.to_string(),
            image_id: image.to_string(),
            verdict,
            reason: reason.to_owned(),
            since: "2026-01-01T00:00:00Z".to_owned(),
            agent: "0.1.0".to_owned(),
            services: BTreeMap::new(),
        };
        let name = contract::names::registry_parameter(image_name, instance.as_str());
        self.parameters
            .insert(name, serde_json::to_string(&record).unwrap());
    }

    fn parameter(&mut self, name: &str) -> Option<Parameter> {
        if let Some(left) = self.validation {
            self.validation = left.checked_sub(1);
        } else if let Some((name, value)) = self.awaited.take() {
            self.parameters.insert(name, value);
        }
        self.parameters.get(name).map(|value| Parameter {
            name: name.to_owned(),
            value: value.clone(),
            version: 1,
        })
    }
}

#[async_trait]
impl Parameters for InMemoryAws {
    async fn parameter(&self, name: &str) -> Answer<Option<Parameter>> {
        self.read("parameter", |aws| Ok(aws.parameter(name))).await
    }

    async fn named(&self, names: &[String]) -> Answer<Vec<Parameter>> {
        self.read("named", |aws| {
            let found = names.iter().filter_map(|name| aws.parameter(name));
            Ok(found.collect())
        })
        .await
    }

    async fn point(&self, name: &str, image: &ImageId) -> Answer<()> {
        self.change("point", |aws| {
            if aws.validation.is_some() {
                aws.awaited = Some((name.to_owned(), image.to_string()));
            } else {
                aws.parameters.insert(name.to_owned(), image.to_string());
            }
            Ok(())
        })
        .await
    }

    async fn write(&self, name: &str, value: &str) -> Answer<()> {
        self.change("write", |aws| {
            aws.parameters.insert(name.to_owned(), value.to_owned());
            Ok(())
        })
        .await
    }

    async fn delete(&self, name: &Owned<String>) -> Answer<()> {
        self.change("delete", |aws| {
            aws.parameters.remove(name.id());
            Ok(())
        })
        .await
    }
}
