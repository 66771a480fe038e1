//! `arch` as a list: one configuration for each architecture, with what differs in `[arch.<name>]`.
//!
//! `[arch.arm64.image.agent]`, `[arch.arm64.bake]` and so on have the shape of the file; their values override the file's for that
//! architecture, table by table, key by key.

use serde::Deserialize as _;
use toml::{Table, Value};

use super::contents::Written;
use super::layers::{self, Layers};
use super::{Arch, Config, refuse};
use run::exit::{Exit, Failure};

/// What may differ between architectures.
const TABLES: [&str; 3] = ["image", "services", "bake"];
/// Keys of `[image]` that are the release's.
const COMMON: [&str; 2] = ["name", "arch"];

/// Validates configuration text.
#[cfg(test)]
pub(crate) fn parse(text: &str, place: &str) -> Result<Vec<Config>, Failure> {
    of(&Layers::of_one(text, place)?, &|_| place.to_owned())
}

/// One configuration, or one for each architecture that `arch` lists, in its order. `place` is that of a finding.
pub(super) fn of(layers: &Layers, place: &dyn Fn(&str) -> String) -> Result<Vec<Config>, Failure> {
    let table: Table = layers.parse(&|_| ())?;
    let listed = table
        .get("image")
        .and_then(|image| image.get("arch"))
        .and_then(Value::as_array);
    let Some(listed) = listed else {
        if table.contains_key("arch") {
            let finding = "[arch] needs the architectures listed in [image]: `arch = [\"x86_64\", \"arm64\"]`";
            refuse(place, &[finding.to_owned()])?;
        }
        let mut config: Config = layers.parse(&|_| ())?;
        refuse(place, &config.findings())?;
        config.image.packages.place = Written(Some(place("[image.packages] apt")));
        return Ok(vec![config]);
    };
    let (released, mut findings) = architectures(listed);
    match table.get("arch") {
        None => {}
        Some(Value::Table(overrides)) => findings.extend(wrong_overrides(overrides, &released)),
        Some(_) => findings.push("arch is not a table such as [arch.arm64.bake]".to_owned()),
    }
    refuse(place, &findings)?;
    each(layers, &released, place)
}

/// The configurations of all architectures; their findings are reported together.
fn each(
    layers: &Layers,
    released: &[Arch],
    place: &dyn Fn(&str) -> String,
) -> Result<Vec<Config>, Failure> {
    let mut configs = Vec::new();
    let mut findings = Vec::new();
    for arch in released {
        let mut config: Config = layers.parse(&|table| layers::choose(table, arch.as_str()))?;
        config.released = released.to_vec();
        let packages = format!("for {arch}: [image.packages] apt");
        config.image.packages.place = Written(Some(place(&packages)));
        findings.push(config.findings());
        configs.push(config);
    }
    let common = |finding: &String| findings.iter().all(|one| one.contains(finding));
    let mut all = Vec::new();
    for (arch, own) in released.iter().zip(&findings) {
        for finding in own {
            let placed = if common(finding) {
                finding.clone()
            } else {
                format!("for {arch}: {finding}")
            };
            if !all.contains(&placed) {
                all.push(placed);
            }
        }
    }
    refuse(place, &all)?;
    Ok(configs)
}

/// The architectures of a list, and what is wrong with it.
fn architectures(listed: &[Value]) -> (Vec<Arch>, Vec<String>) {
    let mut released = Vec::new();
    let mut findings = Vec::new();
    for value in listed {
        match Arch::deserialize(value.clone()) {
            Ok(arch) if released.contains(&arch) => {
                findings.push(format!("[image] arch lists {arch} twice"));
            }
            Ok(arch) => released.push(arch),
            Err(_) => findings.push(format!(
                "[image] arch lists {value}; there are \"x86_64\" and \"arm64\""
            )),
        }
    }
    if listed.is_empty() {
        findings.push("[image] arch is an empty list".to_owned());
    }
    (released, findings)
}

/// What must not, or cannot, differ between architectures.
fn wrong_overrides(overrides: &Table, released: &[Arch]) -> Vec<String> {
    let mut findings = Vec::new();
    for (name, own) in overrides {
        if !released.iter().any(|arch| arch.as_str() == name) {
            findings.push(format!(
                "[arch.{name}]: `arch` in [image] does not list {name}"
            ));
        }
        let Some(own) = own.as_table() else {
            findings.push(format!("arch.{name} is not a table"));
            continue;
        };
        for table in own.keys() {
            if !TABLES.contains(&table.as_str()) {
                findings.push(format!(
                    "[arch.{name}.{table}] cannot differ between architectures; {} can",
                    TABLES.join(", ")
                ));
            }
        }
        for key in COMMON {
            if own
                .get("image")
                .is_some_and(|image| image.get(key).is_some())
            {
                findings.push(format!(
                    "[arch.{name}.image] {key} cannot differ between architectures"
                ));
            }
        }
    }
    findings
}

/// The error when a verb needs one architecture and several are listed.
pub(crate) fn one_of(configs: Vec<Config>, arch: Option<Arch>) -> Result<Config, Failure> {
    let names: Vec<&str> = configs.iter().map(|one| one.image.arch.as_str()).collect();
    let names = names.join(" and ");
    let several = configs.len() > 1;
    let mut fits = configs
        .into_iter()
        .filter(|one| arch.is_none_or(|arch| one.image.arch == arch));
    match (fits.next(), arch) {
        (Some(config), None) if !several => Ok(config),
        (Some(config), Some(_)) => Ok(config),
        (_, None) => Err(Exit::Usage
            .error(format!("the image is released for {names}"))
            .hint("name one of them: --arch arm64")),
        (None, Some(arch)) => Err(Exit::Usage
            .error(format!("the image is for {names}, not for {arch}"))
            .hint("add it to `arch` in [image], or name another with --arch")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::By;

    const BOTH: &str = r#"
[image]
name = "shop"
arch = ["x86_64", "arm64"]
[image.source]
owners = ["136693071363"]
name = "debian-12-amd64-*"
[image.agent]
binary = "x86_64/agent"
[services.orders]
binary = "x86_64/orders"
health_url = "http://127.0.0.1:8080/gtg"
[arch.arm64.image.source]
name = "debian-12-arm64-*"
[arch.arm64.image.agent]
binary = "aarch64/agent"
[arch.arm64.services.orders]
binary = "aarch64/orders"
"#;

    fn refused(text: &str) -> String {
        let error = anyhow::Error::from(parse(text, "test.toml").unwrap_err());
        assert_eq!(Exit::of(&error), Exit::Usage);
        format!("{error:#}")
    }

    #[test]
    fn each_architecture_has_its_own_values() {
        let configs = parse(BOTH, "test.toml").unwrap();
        let seen: Vec<_> = configs
            .iter()
            .map(|config| {
                let service = config.services.values().next().unwrap();
                (
                    config.image.arch,
                    match &config.image.source.by {
                        By::Name { name, .. } => name.as_str(),
                        other => panic!("{other:?}"),
                    },
                    config.image.agent.binary.to_str().unwrap(),
                    service.binary.as_ref().unwrap().to_str().unwrap(),
                    service.health_url.as_deref().unwrap(),
                    config.instance_type(),
                )
            })
            .collect();
        let url = "http://127.0.0.1:8080/gtg";
        assert_eq!(
            seen,
            [
                (
                    Arch::X86_64,
                    "debian-12-amd64-*",
                    "x86_64/agent",
                    "x86_64/orders",
                    url,
                    "t3.small"
                ),
                (
                    Arch::Arm64,
                    "debian-12-arm64-*",
                    "aarch64/agent",
                    "aarch64/orders",
                    url,
                    "t4g.small"
                ),
            ]
        );
        assert!(configs.iter().all(Config::several));
    }

    #[test]
    fn wrong_lists_and_overrides_are_refused_together() {
        let list = |list: &str| BOTH.replace(r#"["x86_64", "arm64"]"#, list);
        for (text, want) in [
            (list("[]"), "arch is an empty list"),
            (list(r#"["x86_64", "arm64", "arm64"]"#), "lists arm64 twice"),
            (
                list(r#"["x86_64", "riscv64"]"#),
                r#"lists "riscv64"; there are"#,
            ),
            (
                list(r#"["x86_64"]"#),
                "[arch.arm64]: `arch` in [image] does not list arm64",
            ),
            (list(r#""x86_64""#), "[arch] needs the architectures listed"),
            (
                format!("{BOTH}[arch.arm64.fleet]\ngroup = \"shop\"\n"),
                "[arch.arm64.fleet] cannot differ",
            ),
            (
                format!("{BOTH}[arch.arm64.image]\nname = \"other\"\n"),
                "[arch.arm64.image] name cannot differ",
            ),
            (
                format!("{BOTH}[arch.arm64.bake]\nsubnett = \"subnet-1\"\n"),
                ": unknown field `subnett`",
            ),
            (
                format!("{BOTH}[arch.arm64.bake]\nssh_port = 0\n"),
                "test.toml: for arm64: [bake] ssh_port is 0",
            ),
            (
                format!("{BOTH}[bake]\nssh_port = 0\n"),
                "test.toml: [bake] ssh_port is 0",
            ),
        ] {
            let message = refused(&text);
            assert!(message.contains(want), "{want}: {message}");
        }
    }

    #[test]
    fn a_verb_for_one_architecture_needs_its_name() {
        let both = || parse(BOTH, "test.toml").unwrap();
        let one = one_of(both(), Some(Arch::Arm64)).unwrap();
        assert_eq!(one.image.arch, Arch::Arm64);
        let error = one_of(both(), None).unwrap_err();
        assert_eq!(error.hints(), ["name one of them: --arch arm64"]);
        let single = &BOTH[..BOTH.find("[arch.arm64").unwrap()];
        let single = single.replace(r#"["x86_64", "arm64"]"#, "\"x86_64\"");
        let single = || parse(&single, "test.toml").unwrap();
        assert!(!one_of(single(), None).unwrap().several());
        assert!(one_of(single(), Some(Arch::Arm64)).is_err());
    }
}
