//! `imagebuilder status`.

use clap::Args;

use crate::context::Context;
use roll::observe::{self, Gaps, Known, Which};
use roll::status::{self, Pointers};
use run::exit::Exit;
use run::pointers::Scope;

/// Arguments of `status`.
#[derive(Debug, Args)]
pub(crate) struct Status {}

impl Status {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let settings = config.settings()?;
        let cloud = context.cloud(&config).await?;
        let image = &config.image.name;
        let output = &context.output;
        let mut gaps = Gaps::Named(Vec::new());
        let arch = super::roll::architecture(&config, &cloud, &settings).await?;
        let scope = Scope::new(image, arch);
        let pointers = Pointers::read(&cloud, &scope, &mut gaps).await?;
        let group = &settings.group;
        let mut known = Known::default();
        let view = observe::find(&cloud, image, group, &mut known, Which::All, &mut gaps).await?;
        let lines = match &view {
            Some(view) => status::lines(image, &pointers, view),
            None => status::pointer_lines(image, &pointers),
        };
        let gaps = match gaps {
            Gaps::Named(gaps) => gaps,
            Gaps::Refused => Vec::new(),
        };
        if output.wants_json() {
            output.json(&status::Status::of(image, &pointers, view.as_ref(), &gaps))?;
        } else {
            for line in lines {
                output.data(line)?;
            }
            for gap in &gaps {
                output.data(format!("not read: {gap}"))?;
            }
        }
        if view.is_none() {
            return Err(observe::no_group(&cloud, group).into());
        }
        if !gaps.is_empty() {
            return Err(Exit::Unexpected
                .error(format!("{} parts could not be read, see above", gaps.len()))
                .hint("what each command needs is in docs/operating.md#permissions")
                .into());
        }
        Ok(Exit::Done)
    }
}
