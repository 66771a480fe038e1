//! What a change of the channel needs, checked before anything is written.
//!
//! The rule is [`preflight`](run::preflight)'s. A folder with keys in files needs nothing from AWS, and nothing is checked.

use super::session::ChannelSession;
use crate::config::{KeySource, Repository};
use cloud::{Cloud, aws};
use run::permissions::{Need, Verb, needed};
use run::preflight::{self, Findings, Subject};

impl ChannelSession {
    /// Refuses a change that could not be written, or not be signed with the keys of `sources`; what could not be checked is printed.
    ///
    /// # Errors
    /// When something is denied, or no credentials are found.
    pub(super) async fn may_change(
        &self,
        sources: impl IntoIterator<Item = &KeySource>,
    ) -> anyhow::Result<()> {
        let mut keys: Vec<&str> = sources
            .into_iter()
            .filter_map(|source| match source {
                KeySource::AwsKms(key) => Some(key.as_str()),
                KeySource::File(_) => None,
            })
            .collect();
        keys.sort_unstable();
        keys.dedup();
        let bucket = match &self.channel.repository {
            Repository::Bucket { bucket, prefix } => Some((bucket.as_str(), prefix.as_str())),
            Repository::Folder(_) => None,
        };
        let mut needs = Vec::new();
        needs.extend(bucket.map(|_| Need::Bucket));
        needs.extend((!keys.is_empty()).then_some(Need::SigningKey));
        if needs.is_empty() {
            return Ok(());
        }
        let cloud = match &self.cloud {
            Some(cloud) => cloud.clone(),
            None => aws::account(&self.connection)
                .await
                .map_err(run::exit::not_connected)?
                .cloud(),
        };
        let subject = Subject {
            keys,
            bucket,
            ..Subject::default()
        };
        let found = preflight::in_time(findings(&cloud, &needs, &subject)).await;
        Ok(found.settle(Verb::Channel.denial(), &self.output)?)
    }
}

async fn findings(cloud: &Cloud, needs: &[Need], subject: &Subject<'_>) -> Findings {
    let mut findings = Findings::default();
    if let Some(caller) = preflight::caller(cloud, &mut findings).await {
        let actions = needed(&[Verb::Channel], needs);
        let answers = preflight::ask(cloud, &caller, &actions, subject).await;
        findings.permissions(answers, &caller.arn);
    }
    findings
}
