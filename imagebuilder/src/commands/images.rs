//! `imagebuilder images`.

use clap::Args;
use contract::names::Pointer;
use contract::tags;
use schemars::JsonSchema;
use serde::Serialize;

use crate::context::Context;
use cloud::ids::{ImageId, ImageName};
use cloud::{Cloud, Image, ImageState, Search};
use run::document::Document;
use run::exit::Exit;
use run::pointers::{self, Scope};

/// Arguments of `images`.
///
/// Newest first. With --json, an array of objects.
#[derive(Debug, Args)]
pub(crate) struct Images {}

/// One image of this configuration.
#[derive(Debug, Serialize, JsonSchema)]
pub(crate) struct Row {
    /// Its id.
    #[schemars(with = "String")]
    image: ImageId,
    /// Its name.
    name: String,
    /// When it was created, as EC2 writes it.
    created: String,
    /// Its state: available, pending, or another one of EC2's.
    state: String,
    /// The gate's verdict, from its tag.
    verdict: Option<String>,
    /// The digest of what went into it, from its tag.
    digest: Option<String>,
    /// The source image it was built from, from its tag.
    source: Option<String>,
    /// The run that baked it, from its tag.
    run: Option<String>,
    /// The pointers that point at it: candidate, current, previous.
    pointers: Vec<String>,
}

impl Document for Row {
    const NAME: &'static str = "images";
}

impl Images {
    pub(crate) async fn run(self, context: &Context) -> anyhow::Result<Exit> {
        let config = context.config()?;
        let cloud = context.cloud(&config).await?;
        let rows = rows(&cloud, &config.image.name).await?;
        if context.output.wants_json() {
            context.output.json_list(&rows)?;
        } else if rows.is_empty() {
            context.output.info(format!(
                "no image of {} yet; run `imagebuilder bake`",
                config.image.name
            ));
        } else {
            let now = jiff::Timestamp::now();
            for line in table(&rows, now) {
                context.output.data(line)?;
            }
        }
        Ok(Exit::Done)
    }
}

async fn rows(cloud: &Cloud, name: &ImageName) -> anyhow::Result<Vec<Row>> {
    let mut images = cloud
        .images
        .search(&Search::own_tagged(tags::IMAGE, name.as_str()))
        .await?;
    images.sort_by(|a, b| b.created.cmp(&a.created));
    let mut pointing = Vec::new();
    for scope in Scope::all(name) {
        for pointer in Pointer::ALL {
            if let Some(image) = pointers::read(cloud, &scope, pointer).await? {
                pointing.push((image, pointer.to_string()));
            }
        }
    }
    Ok(images
        .into_iter()
        .map(|image| row(image, &pointing))
        .collect())
}

fn row(image: Image, pointing: &[(ImageId, String)]) -> Row {
    let tag = |key: &str| image.tags.get(key).cloned();
    Row {
        verdict: tag(tags::VERDICT),
        digest: tag(tags::DIGEST),
        source: tag(tags::SOURCE_AMI),
        run: tag(tags::RUN),
        pointers: pointing
            .iter()
            .filter(|(id, _)| *id == image.id)
            .map(|(_, pointer)| pointer.clone())
            .collect(),
        state: match image.state {
            ImageState::Available => "available".to_owned(),
            ImageState::Pending => "pending".to_owned(),
            ImageState::Other(state) => state,
        },
        image: image.id,
        name: image.name,
        created: image.created,
    }
}

fn table(rows: &[Row], now: jiff::Timestamp) -> Vec<String> {
    let cells = rows.iter().map(|row| {
        [
            row.image.to_string(),
            age(&row.created, now),
            row.state.clone(),
            row.verdict.clone().unwrap_or_else(|| "-".to_owned()),
            row.digest
                .as_deref()
                .map_or("-", |digest| digest.get(..8).unwrap_or(digest))
                .to_owned(),
            if row.pointers.is_empty() {
                "-".to_owned()
            } else {
                row.pointers.join(",")
            },
            row.name.clone(),
        ]
    });
    let head = [
        "IMAGE", "AGE", "STATE", "VERDICT", "DIGEST", "POINTERS", "NAME",
    ]
    .map(ToOwned::to_owned);
    let cells: Vec<[String; 7]> = std::iter::once(head).chain(cells).collect();
    let width = |column: usize| {
        cells
            .iter()
            .map(|row| row[column].chars().count())
            .max()
            .unwrap_or(0)
    };
    let widths: Vec<usize> = (0..7).map(width).collect();
    cells
        .iter()
        .map(|row| {
            let padded: Vec<String> = row
                .iter()
                .zip(&widths)
                .map(|(cell, width)| format!("{cell:<width$}"))
                .collect();
            padded.join("  ").trim_end().to_owned()
        })
        .collect()
}

fn age(created: &str, now: jiff::Timestamp) -> String {
    let Ok(created) = created.parse::<jiff::Timestamp>() else {
        return "?".to_owned();
    };
    let seconds = now.duration_since(created).as_secs();
    match seconds {
        ..60 => format!("{seconds}s"),
        60..3600 => format!("{}m", seconds / 60),
        3600..172_800 => format!("{}h", seconds / 3600),
        _ => format!("{}d", seconds / 86_400),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::Tags;
    use cloud::testing::{InMemoryAws, OWNER};
    use run::testing::printed;

    #[tokio::test]
    async fn the_table_shows_verdict_digest_and_pointers_newest_first() {
        let aws = InMemoryAws::default();
        {
            let mut state = aws.state();
            let tags = |verdict: &str| {
                Tags::from([
                    (tags::IMAGE.to_owned(), "shop".to_owned()),
                    (tags::DIGEST.to_owned(), "0123456789abcdef".to_owned()),
                    (tags::VERDICT.to_owned(), verdict.to_owned()),
                ])
            };
            let first = state.add_image(OWNER, "shop-1", tags("fit"));
            state.add_image(OWNER, "shop-2", tags("fit"));
            state.add_image(OWNER, "other", Tags::new());
            state
                .parameters
                .insert("/imagebuilder/shop/current".into(), first.to_string());
        }
        let rows = rows(&aws.cloud(), &ImageName::parse("shop").unwrap())
            .await
            .unwrap();
        for row in &rows {
            printed(row);
        }
        let text = table(&rows, "2026-01-01T05:00:00Z".parse().unwrap()).join("\n");
        insta::assert_snapshot!(text, @r"
        IMAGE     AGE  STATE      VERDICT  DIGEST    POINTERS  NAME
        ami-0003  4h   available  fit      01234567  -         shop-2
        ami-0001  4h   available  fit      01234567  current   shop-1
        ");
    }
}
