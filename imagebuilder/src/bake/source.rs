//! Which image to start from: resolved once, to a literal id. Only reads.

use crate::config::{By, Config, Owner, ParameterName};
use cloud::ids::ImageId;
use cloud::{Cloud, Image, ImageState, Images, Search};
use run::exit::{Exit, Failure};

/// How many near misses a refusal shows.
const NEAR_MISSES: usize = 5;

/// The configured source image, available and of the configured architecture.
pub(crate) async fn resolve(cloud: &Cloud, config: &Config) -> anyhow::Result<Image> {
    match &config.image.source.by {
        By::Name { owners, name } => named(cloud.images.as_ref(), config, owners, name).await,
        By::Id(id) => one(cloud, config, id, "[image.source] id").await,
        By::Parameter(name) => {
            let id = value(cloud, name).await?;
            one(cloud, config, &id, &format!("parameter {name}")).await
        }
    }
}

/// The newest available image of these owners whose name matches.
async fn named(
    images: &dyn Images,
    config: &Config,
    owners: &[Owner],
    name: &str,
) -> anyhow::Result<Image> {
    let deprecated = config.image.source.deprecated;
    let of_owners = |withdrawn| Search {
        owners: owners.iter().map(ToString::to_string).collect(),
        withdrawn,
        ..Search::default()
    };
    let search = of_owners(deprecated)
        .and("name", name)
        .and("architecture", config.image.arch.as_str())
        .and("state", "available")
        .and("root-device-type", "ebs")
        .and("virtualization-type", "hvm");
    let mut found = images.search(&search).await?;
    let now = jiff::Timestamp::now();
    // An owner sees deprecated images of its own, whatever it asks for.
    found.retain(|image| deprecated || !is_deprecated(image, now));
    if let Some(image) = newest(found) {
        return Ok(image);
    }
    let owners: Vec<String> = owners.iter().map(ToString::to_string).collect();
    let failure = Exit::Refused.error(format!(
        "no source image: owners {}, name `{name}`, architecture {}, state available, root device ebs{}",
        owners.join(", "),
        config.image.arch.as_str(),
        if deprecated { "" } else { ", not deprecated" }
    ));
    // The same owners without the other conditions: what was nearly it. Millions of images for owner `amazon`, so only
    // where the beginning of the name narrows it.
    let stem: String = name
        .chars()
        .take_while(|c| c.is_ascii_alphabetic())
        .collect();
    let near = if stem.is_empty() {
        Vec::new()
    } else {
        let wide = of_owners(true).and("name", format!("{stem}*"));
        images.search(&wide).await.unwrap_or_default()
    };
    Err(failure.hint(near_misses(near, now)).into())
}

/// The image's id that is a parameter's value.
async fn value(cloud: &Cloud, name: &ParameterName) -> anyhow::Result<ImageId> {
    let Some(found) = cloud.parameters.parameter(name.as_str()).await? else {
        return Err(Exit::Refused
            .error(format!("there is no parameter {name} in {}", cloud.region))
            .hint("correct `ssm_parameter` in [image.source], or the region")
            .into());
    };
    let text = found.value.trim();
    ImageId::parse(text).map_err(|_| {
        let shown: String = text.chars().take(60).collect();
        let failure = Exit::Refused.error(format!(
            "parameter {name} is `{}`, which is not the id of an image",
            shown.escape_debug()
        ));
        let fix = if text.starts_with('{') {
            format!("name the parameter that has the id alone, such as {name}/image_id")
        } else {
            "name a parameter whose value is an image's id as `ssm_parameter` in [image.source]"
                .to_owned()
        };
        failure.hint(fix).into()
    })
}

/// The image of this id, named by `place`.
async fn one(cloud: &Cloud, config: &Config, id: &ImageId, place: &str) -> anyhow::Result<Image> {
    // By a filter: a search by id fails for an id that does not exist, and hides one that is disabled.
    let search = Search {
        withdrawn: true,
        ..Search::default()
    };
    let search = search.and("image-id", id.as_str());
    let Some(image) = cloud.images.search(&search).await?.pop() else {
        return Err(Exit::Refused
            .error(format!(
                "{place}: there is no image {id} in {} that this account may use",
                cloud.region
            ))
            .hint("an image's id is of one region: correct [image.source], or the region")
            .into());
    };
    check(config, &image, place, jiff::Timestamp::now())?;
    Ok(image)
}

/// Refuses an image that nothing can or should be built from, for all reasons at once.
fn check(config: &Config, image: &Image, place: &str, now: jiff::Timestamp) -> Result<(), Failure> {
    let arch = config.image.arch.as_str();
    let mut wrong: Vec<(String, &str)> = Vec::new();
    match &image.state {
        ImageState::Available => {}
        ImageState::Pending => {
            wrong.push(("is pending".to_owned(), "bake again when it is available"))
        }
        ImageState::Other(state) => {
            wrong.push((
                format!("is {state}"),
                "name another image in [image.source]",
            ));
        }
    }
    if image.architecture != arch {
        wrong.push((
            format!("is for {}, and [image] arch is {arch}", image.architecture),
            "name an image of that architecture, or correct `arch`",
        ));
    }
    if !image.root_on_ebs {
        wrong.push((
            "boots from an instance store volume, of which no image is made".to_owned(),
            "name an image whose root device is on EBS",
        ));
    }
    if !config.image.source.deprecated && is_deprecated(image, now) {
        wrong.push((
            format!(
                "is deprecated since {}",
                image.deprecated.as_deref().unwrap_or_default()
            ),
            "name a newer image, or set `deprecated = true` in [image.source]",
        ));
    }
    if wrong.is_empty() {
        return Ok(());
    }
    let (what, fixes): (Vec<String>, Vec<&str>) = wrong.into_iter().unzip();
    Err(Exit::Refused
        .error(format!(
            "{place}: the source image {} {} {}",
            image.id,
            image.name,
            what.join(", ")
        ))
        .hint(fixes.join("\n")))
}

/// Whether its time of deprecation has passed. One that cannot be read counts as passed.
fn is_deprecated(image: &Image, now: jiff::Timestamp) -> bool {
    let lies_ahead = |at: &String| at.parse::<jiff::Timestamp>().is_ok_and(|at| at > now);
    image.deprecated.as_ref().is_some_and(|at| !lies_ahead(at))
}

fn newest(found: Vec<Image>) -> Option<Image> {
    found
        .into_iter()
        .filter(|image| image.state == ImageState::Available)
        .max_by(|a, b| (&a.created, &a.id).cmp(&(&b.created, &b.id)))
}

fn near_misses(mut near: Vec<Image>, now: jiff::Timestamp) -> String {
    if near.is_empty() {
        return "these owners have no image of a similar name in this region: check [image.source] and the region".into();
    }
    near.sort_by(|a, b| b.created.cmp(&a.created));
    let mut text = String::from("near misses of these owners:");
    for image in near.iter().take(NEAR_MISSES) {
        let state = match &image.state {
            ImageState::Available => "",
            ImageState::Pending => "  pending",
            ImageState::Other(state) => &format!("  {state}"),
        };
        let deprecated = if is_deprecated(image, now) {
            "  deprecated"
        } else {
            ""
        };
        text.push_str(&format!(
            "\n  {}  {}  {}{state}{deprecated}",
            image.id, image.name, image.architecture
        ));
    }
    text
}
