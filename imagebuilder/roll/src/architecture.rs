//! Which architecture a group's instances have, for an image that is released for several.

use anyhow::Result;

use super::observe::no_group;
use cloud::ids::GroupName;
use cloud::{Arch, Cloud, GroupLaunches, SavedVersion, Template};
use run::exit::{Exit, Failure};

/// The architecture that a group launches, of those that the image is released for.
///
/// # Errors
/// When the group cannot be read, or its launch template names no instance type of one of these architectures.
pub async fn of_group(cloud: &Cloud, group: &GroupName, released: &[Arch]) -> Result<Arch> {
    let Some(found) = cloud.fleet.group(group).await? else {
        return Err(no_group(cloud, group).into());
    };
    let GroupLaunches::Template { id, name, saved } = &found.launches else {
        return Err(unknown(group, "it does not launch from one launch template").into());
    };
    let template = cloud.templates.template(id).await?.unwrap_or_default();
    let Some(instance_type) = instance_type(&template, *saved) else {
        let why = format!("launch template {name} names no instance type");
        return Err(unknown(group, &why).into());
    };
    let runs = cloud.instances.architectures(&instance_type).await?;
    choose(&runs.unwrap_or_default(), released).ok_or_else(|| {
        let all: Vec<&str> = released.iter().map(|arch| arch.as_str()).collect();
        let why = format!(
            "it launches {instance_type}, which runs none of {}",
            all.join(" and ")
        );
        unknown(group, &why).into()
    })
}

/// The instance type of the version that a group is saved on.
fn instance_type(template: &Template, saved: SavedVersion) -> Option<String> {
    let number = match saved {
        SavedVersion::Number(number) => number,
        SavedVersion::Latest => template.latest,
        SavedVersion::Default => template.default,
    };
    let mut versions = template.versions.iter();
    let version = versions.find(|version| version.number == number)?;
    version.instance_type.clone()
}

/// The architecture of the release that an instance type runs.
fn choose(runs: &[String], released: &[Arch]) -> Option<Arch> {
    let fits = |arch: &&Arch| runs.iter().any(|one| one == arch.as_str());
    released.iter().find(fits).copied()
}

fn unknown(group: &GroupName, why: &str) -> Failure {
    Exit::Refused
        .error(format!(
            "it is unknown which architecture group {group} runs: {why}"
        ))
        .hint("set the instance type in the group's launch template, or bake for one architecture: `arch` in [image]")
}

#[cfg(test)]
mod tests {
    use super::*;
    use cloud::{TemplateImage, TemplateVersion};

    #[test]
    fn the_instance_type_chooses_the_architecture() {
        use Arch::{Arm64, X86_64};
        let both = [X86_64, Arm64];
        let cases: [(&[&str], &[Arch], Option<Arch>); 5] = [
            (&["i386", "x86_64"], &both, Some(X86_64)),
            (&["arm64"], &both, Some(Arm64)),
            (&["arm64"], &[X86_64], None),
            (&["x86_64_mac"], &both, None),
            (&[], &both, None),
        ];
        for (runs, released, want) in cases {
            let runs: Vec<String> = runs.iter().map(|arch| (*arch).to_owned()).collect();
            assert_eq!(choose(&runs, released), want, "{runs:?} of {released:?}");
        }
    }

    #[test]
    fn the_saved_version_has_the_instance_type() {
        let version = |number, instance_type: Option<&str>| TemplateVersion {
            number,
            image: TemplateImage::Missing,
            instance_type: instance_type.map(str::to_owned),
            description: String::new(),
            shape: String::new(),
        };
        let template = Template {
            versions: vec![
                version(1, Some("t3.micro")),
                version(2, Some("t4g.micro")),
                version(3, None),
            ],
            latest: 3,
            default: 1,
        };
        for (saved, want) in [
            (SavedVersion::Number(2), Some("t4g.micro")),
            (SavedVersion::Default, Some("t3.micro")),
            (SavedVersion::Latest, None),
            (SavedVersion::Number(4), None),
        ] {
            let found = instance_type(&template, saved);
            assert_eq!(found.as_deref(), want, "{saved}");
        }
    }
}
