//! The release record of an image for several architectures: read, written in one call, restored after a bake that failed.
//!
//! Rule: what is rolled is read from the record, never from the pointers of the architectures, which are set one by one.

use std::collections::BTreeMap;

use anyhow::Result;
use contract::image_release::ImageRelease;
use contract::names::release_parameter;

use crate::exit::Exit;
use cloud::ids::{ImageId, ImageName};
use cloud::{Answer, Arch, Cloud, Owned};

/// The images of the last release; `None` when there is no record that this program can read.
///
/// # Errors
/// When it cannot be read.
pub async fn read(cloud: &Cloud, image: &ImageName) -> Answer<Option<BTreeMap<Arch, ImageId>>> {
    let text = text(cloud, image).await?;
    let release = text.and_then(|text| serde_json::from_str::<ImageRelease>(&text).ok());
    Ok(release.filter(ImageRelease::readable).map(|release| {
        let by_arch = Arch::ALL.into_iter().filter_map(|arch| {
            let id = release.images.get(arch.as_str())?;
            Some((arch, ImageId::parse(id.as_str()).ok()?))
        });
        by_arch.collect()
    }))
}

/// The record as it is stored.
///
/// # Errors
/// When it cannot be read.
pub async fn text(cloud: &Cloud, image: &ImageName) -> Answer<Option<String>> {
    let name = release_parameter(image.as_str());
    let parameter = cloud.parameters.parameter(&name).await?;
    Ok(parameter.map(|parameter| parameter.value))
}

/// Writes the record and reads it back. Returns whether it was another before.
///
/// # Errors
/// When it cannot be written, or another is read back.
pub async fn write(
    cloud: &Cloud,
    image: &ImageName,
    images: &BTreeMap<Arch, ImageId>,
) -> Result<bool> {
    if read(cloud, image).await?.as_ref() == Some(images) {
        return Ok(false);
    }
    let by_name = images
        .iter()
        .map(|(arch, id)| (arch.as_str().to_owned(), id.to_string()));
    let release = ImageRelease::new(by_name.collect());
    let name = release_parameter(image.as_str());
    cloud
        .parameters
        .write(&name, &serde_json::to_string(&release)?)
        .await?;
    if read(cloud, image).await?.as_ref() == Some(images) {
        return Ok(true);
    }
    Err(Exit::Unexpected
        .error(format!("{name} was written and reads back another value"))
        .hint("is another bake of this image running? bake again when it has ended")
        .into())
}

/// Restores the record to `before`, or removes it if there was none; only while it names nothing but these images of our own.
///
/// # Errors
/// When it cannot be read, written or removed.
pub async fn restore(
    cloud: &Cloud,
    image: &ImageName,
    own: &[Owned<ImageId>],
    before: Option<&str>,
) -> Result<()> {
    let name = release_parameter(image.as_str());
    let now = cloud.parameters.parameter(&name).await?;
    let Some(ours) = now.and_then(|now| now.owned_as_release(own)) else {
        return Ok(());
    };
    match before {
        Some(before) => Ok(cloud.parameters.write(&name, before).await?),
        None => Ok(cloud.parameters.delete(&ours).await?),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::testing::InMemoryAws;

    fn id(text: &str) -> ImageId {
        ImageId::parse(text).unwrap()
    }

    fn images(x86_64: &str, arm64: &str) -> BTreeMap<Arch, ImageId> {
        [(Arch::X86_64, id(x86_64)), (Arch::Arm64, id(arm64))].into()
    }

    #[tokio::test]
    async fn a_release_reads_as_it_was_written() {
        let aws = InMemoryAws::default();
        let (cloud, shop) = (aws.cloud(), ImageName::parse("shop").unwrap());
        assert_eq!(read(&cloud, &shop).await.unwrap(), None);
        let release = images("ami-1", "ami-2");
        assert!(write(&cloud, &shop, &release).await.unwrap());
        assert!(!write(&cloud, &shop, &release).await.unwrap());
        assert_eq!(read(&cloud, &shop).await.unwrap(), Some(release));
    }

    #[tokio::test]
    async fn only_a_release_of_own_images_is_restored() {
        let (shop, own) = (ImageName::parse("shop").unwrap(), ["ami-1", "ami-2"]);
        let own = own.map(|text| Owned::for_test(id(text)));
        let old = r#"{"schema":1,"images":{"x86_64":"ami-0"}}"#;
        for (now, before, want) in [
            (images("ami-1", "ami-2"), Some(old), Some(old)),
            (images("ami-1", "ami-2"), None, None),
            // Another run has published by now.
            (
                images("ami-1", "ami-3"),
                Some(old),
                Some(r#"{"schema":1,"images":{"arm64":"ami-3","x86_64":"ami-1"}}"#),
            ),
        ] {
            let aws = InMemoryAws::default();
            let cloud = aws.cloud();
            write(&cloud, &shop, &now).await.unwrap();
            restore(&cloud, &shop, &own, before).await.unwrap();
            let text = text(&cloud, &shop).await.unwrap();
            assert_eq!(text.as_deref(), want, "{now:?}, {before:?}");
        }
    }
}
