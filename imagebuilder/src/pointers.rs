//! The pointers of an image, parameters of data type `aws:ec2:image`: read, set, and read back.
//!
//! Rule: a pointer is set when it reads back. The service validates an image parameter *after* it has answered
//! (<https://docs.aws.amazon.com/systems-manager/latest/userguide/parameter-store-ec2-aliases.html>), and one that fails keeps its
//! old value without an error. Baking and rolling set pointers through here only, with the same wait.

use std::time::Duration;

use anyhow::Result;
use contract::names::Pointer;

use crate::exit::Exit;
use cloud::ids::{ImageId, ImageName};
use cloud::{Answer, Cloud};

/// Pause between two reads.
const PAUSE: Duration = Duration::from_millis(250);
/// How many reads. Validation takes a second or two, and has taken most of a minute; after two minutes it has failed.
const READS: u32 = 480;

/// The image a pointer points at; `None` when it does not exist or contains no image id.
///
/// # Errors
/// When it cannot be read.
pub(crate) async fn read(
    cloud: &Cloud,
    image: &ImageName,
    pointer: Pointer,
) -> Answer<Option<ImageId>> {
    let name = pointer.parameter(image.as_str());
    let parameter = cloud.parameters.parameter(&name).await?;
    Ok(parameter.and_then(|parameter| ImageId::parse(parameter.value).ok()))
}

/// Points a pointer at an image and waits until it reads back. Changes nothing when it points there already.
///
/// # Errors
/// When it cannot be set, or does not read back within two minutes.
pub(crate) async fn set(
    cloud: &Cloud,
    image: &ImageName,
    pointer: Pointer,
    to: &ImageId,
) -> Result<()> {
    if read(cloud, image, pointer).await?.as_ref() == Some(to) {
        return Ok(());
    }
    let name = pointer.parameter(image.as_str());
    cloud.parameters.point(&name, to).await?;
    for _ in 0..READS {
        if read(cloud, image, pointer).await?.as_ref() == Some(to) {
            return Ok(());
        }
        tokio::time::sleep(PAUSE).await;
    }
    Err(Exit::Unexpected
        .error(format!("{name} was set to {to} and still reads back its old value"))
        .hint("check that the caller may describe the image in this region: Systems Manager validates it after it has answered")
        .into())
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::testing::Fake;

    fn name() -> ImageName {
        ImageName::parse("shop").unwrap()
    }

    #[tokio::test(start_paused = true)]
    async fn a_pointer_that_takes_a_minute_is_waited_for() {
        let fake = Fake::default();
        fake.aws().validation = Some(240);
        let to = ImageId::parse("ami-1").unwrap();
        set(&fake.cloud(), &name(), Pointer::Current, &to)
            .await
            .unwrap();
        let read = read(&fake.cloud(), &name(), Pointer::Current).await;
        assert_eq!(read.unwrap(), Some(to));
    }

    #[tokio::test(start_paused = true)]
    async fn a_pointer_that_never_reads_back_is_an_error() {
        let fake = Fake::default();
        fake.aws().validation = Some(u32::MAX);
        let to = ImageId::parse("ami-1").unwrap();
        let error = set(&fake.cloud(), &name(), Pointer::Current, &to).await;
        let error = format!("{:#}", error.unwrap_err());
        assert!(error.contains("still reads back its old value"), "{error}");
    }
}
