//! Which image to start from: resolved once, to a literal id.

use crate::config::Config;
use cloud::{Image, ImageState, Images, Search};
use run::exit::Exit;

/// How many near misses a refusal shows.
const NEAR_MISSES: usize = 5;

/// The newest available image of the configured owners whose name matches. Only reads.
pub(crate) async fn resolve(images: &dyn Images, config: &Config) -> anyhow::Result<Image> {
    let source = &config.image.source;
    let search = Search {
        owners: source.owners.iter().map(ToString::to_string).collect(),
        ..Search::default()
    }
    .and("name", &source.name)
    .and("architecture", config.image.arch.as_str())
    .and("state", "available")
    .and("root-device-type", "ebs")
    .and("virtualization-type", "hvm");
    if let Some(image) = newest(images.search(&search).await?) {
        return Ok(image);
    }
    let failure = Exit::Refused.error(format!(
        "no source image: owners {}, name `{}`, architecture {}, state available, root device ebs",
        source
            .owners
            .iter()
            .map(ToString::to_string)
            .collect::<Vec<_>>()
            .join(", "),
        source.name,
        config.image.arch.as_str()
    ));
    // The same owners without the other conditions: what was nearly it. Millions of images for owner `amazon`, so only
    // where the beginning of the name narrows it.
    let stem: String = source
        .name
        .chars()
        .take_while(|c| c.is_ascii_alphabetic())
        .collect();
    let near = if stem.is_empty() {
        Vec::new()
    } else {
        let wide = Search {
            owners: source.owners.iter().map(ToString::to_string).collect(),
            ..Search::default()
        }
        .and("name", format!("{stem}*"));
        images.search(&wide).await.unwrap_or_default()
    };
    Err(failure.hint(near_misses(near)).into())
}

fn newest(found: Vec<Image>) -> Option<Image> {
    found
        .into_iter()
        .filter(|image| image.state == ImageState::Available)
        .max_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)))
}

fn near_misses(mut near: Vec<Image>) -> String {
    if near.is_empty() {
        return "these owners have no image of a similar name in this region: check [image.source] and the region".into();
    }
    near.sort_by(|a, b| b.created.cmp(&a.created));
    let mut text = String::from("near misses of these owners:");
    for image in near.iter().take(NEAR_MISSES) {
        text.push_str(&format!(
            "\n  {}  {}  {}",
            image.id, image.name, image.architecture
        ));
    }
    text
}
