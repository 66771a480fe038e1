//! Whatever recipe and whatever valid configuration: what is rendered is valid to the Packer on PATH.
//!
//! `PROPTEST_CASES` sets how many configurations are tried; `make prove` tries more, and a current Packer.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

use proptest::prelude::*;
use proptest::test_runner::{Config, TestRunner};

/// How many, unless `PROPTEST_CASES` says otherwise.
const CASES: u32 = 10;

fn printed(output: &Output) -> String {
    format!(
        "{}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    )
}

fn imagebuilder(at: &Path, args: &[&str]) {
    let output = Command::new(env!("CARGO_BIN_EXE_imagebuilder"))
        .current_dir(at)
        .env_clear()
        .args(args)
        .output()
        .unwrap();
    assert!(output.status.success(), "{args:?}: {}", printed(&output));
}

/// The release of the Packer on PATH.
fn packer() -> String {
    let version = Command::new("packer")
        .arg("version")
        .env("CHECKPOINT_DISABLE", "1")
        .output()
        .unwrap();
    let version = String::from_utf8(version.stdout).unwrap();
    let line = version.lines().next().unwrap();
    line.trim_start_matches("Packer v").to_owned()
}

/// Copies a recipe, with programs that stand for the user's.
fn copied(at: &Path, recipe: &str) {
    imagebuilder(at, &["init", "--recipe", recipe]);
    let text = std::fs::read_to_string(at.join("imagebuilder.toml")).unwrap();
    let config: toml::Table = toml::from_str(&text).unwrap();
    let agent = &config["image"]["agent"]["binary"];
    let services = config.get("services").and_then(toml::Value::as_table);
    let services = services.into_iter().flat_map(toml::Table::values);
    let programs = services.filter_map(|service| service.get("binary"));
    for program in programs.chain([agent]) {
        let path = at.join(program.as_str().unwrap());
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, test_support::elf(62, "")).unwrap();
    }
}

/// Renders for a Packer, and has it judge.
fn accepted(at: &Path, layers: &[&str], version: &str) {
    let mut args = Vec::new();
    for layer in layers {
        args.extend(["--config", layer]);
    }
    imagebuilder(
        at,
        &[&args[..], &["render", "--to", "out", "--packer", version]].concat(),
    );
    let validate = Command::new("packer")
        .args(["validate", "image.pkr.hcl"])
        .current_dir(at.join("out"))
        .env("CHECKPOINT_DISABLE", "1")
        .env("AWS_ACCESS_KEY_ID", "x")
        .env("AWS_SECRET_ACCESS_KEY", "y")
        .output()
        .unwrap();
    assert!(
        validate.status.success(),
        "packer {version}: {}",
        printed(&validate)
    );
}

fn text(value: impl Into<String>) -> toml::Value {
    toml::Value::String(value.into())
}

/// A table whose keys are each there or not.
fn some(keys: Vec<(&'static str, BoxedStrategy<toml::Value>)>) -> BoxedStrategy<toml::Table> {
    let keys = keys.into_iter().map(|(key, value)| {
        let value = proptest::option::of(value);
        value.prop_map(move |value| value.map(|value| (key.to_owned(), value)))
    });
    let keys = keys.collect::<Vec<_>>();
    keys.prop_map(|keys| keys.into_iter().flatten().collect())
        .boxed()
}

fn one_of(values: &'static [&'static str]) -> BoxedStrategy<toml::Value> {
    prop::sample::select(values).prop_map(text).boxed()
}

fn flag() -> BoxedStrategy<toml::Value> {
    any::<bool>().prop_map(toml::Value::Boolean).boxed()
}

fn number(range: std::ops::RangeInclusive<i64>) -> BoxedStrategy<toml::Value> {
    range.prop_map(toml::Value::Integer).boxed()
}

/// Some of these values, each once.
fn list(values: &'static [&'static str]) -> BoxedStrategy<toml::Value> {
    let some = prop::sample::subsequence(values, 0..=values.len());
    some.prop_map(|some| some.into_iter().map(text).collect::<Vec<_>>().into())
        .boxed()
}

fn table(of: BoxedStrategy<toml::Table>) -> BoxedStrategy<toml::Value> {
    of.prop_map(toml::Value::Table).boxed()
}

/// What templates of HCL, of Packer, of shells and of systemd would each read as something else.
fn odd_text() -> BoxedStrategy<toml::Value> {
    "[ -~äß€]{0,24}|\\$\\{var\\.x\\}|%\\{ if true \\}|\\{\\{ \\.Path \\}\\}|\\{\\{ env `HOME` \\}\\}|'\"\\\\|%n"
        .prop_map(text)
        .boxed()
}

fn tag_text() -> BoxedStrategy<String> {
    "x[A-Za-z0-9äß +=._:/@-]{0,30}".boxed()
}

fn image() -> BoxedStrategy<toml::Table> {
    let root_volume = some(vec![
        ("size_gib", number(8..=16_384)),
        ("type", one_of(&["gp3", "gp2"])),
        ("delete_on_termination", flag()),
    ]);
    let volume = (
        1..=2_i64,
        number(16..=1_024),
        one_of(&["gp2", "gp3"]),
        flag(),
    );
    let volumes = volume.prop_map(|(many, size, kind, delete)| {
        let volume = |at: i64| {
            let device = text(format!("/dev/sd{}", if at == 0 { 'f' } else { 'g' }));
            let keys = [
                ("device", device),
                ("size_gib", size.clone()),
                ("type", kind.clone()),
                ("delete_on_termination", delete.clone()),
            ];
            toml::Value::Table(
                keys.map(|(key, value)| (key.to_owned(), value))
                    .into_iter()
                    .collect(),
            )
        };
        toml::Value::Array((0..many).map(volume).collect())
    });
    let environment = prop::collection::btree_map("[A-Z][A-Z0-9_]{0,9}", odd_text(), 0..3);
    let script = (environment, 1..=86_400_i64, any::<bool>());
    let script = script.prop_map(|(environment, timeout, reboot)| {
        let mut script = toml::Table::new();
        script.insert("source".into(), text("script.sh"));
        script.insert("timeout_seconds".into(), timeout.into());
        script.insert("reboot".into(), reboot.into());
        script.insert(
            "environment".into(),
            toml::Value::Table(environment.into_iter().collect()),
        );
        toml::Value::Array(vec![script.into()])
    });
    let folder = (odd_path(), one_of(&["0700", "0755", "1777"])).prop_map(|(path, mode)| {
        let folder = [("path".to_owned(), text(path)), ("mode".to_owned(), mode)];
        toml::Value::Array(vec![toml::Value::Table(folder.into_iter().collect())])
    });
    some(vec![
        (
            "ssh_username",
            one_of(&["admin", "ec2-user", "ubuntu", "a_b-c"]),
        ),
        ("imds", one_of(&["required", "optional"])),
        ("imds_hops", number(1..=64)),
        ("root_volume", table(root_volume)),
        ("volume", volumes.boxed()),
        ("script", script.boxed()),
        ("folder", folder.boxed()),
        (
            "kernel_arguments",
            list(&["quiet", "console=ttyS0,115200", "net.ifnames=0"]),
        ),
        (
            "variables",
            table(some(vec![("note", odd_text()), ("more", odd_text())])),
        ),
    ])
}

fn odd_path() -> BoxedStrategy<String> {
    "/srv/[a-zA-Z0-9_.-]{1,12}x".boxed()
}

fn bake() -> BoxedStrategy<toml::Table> {
    some(vec![
        (
            "instance_type",
            one_of(&["t2.micro", "m7i-flex.large", "u-6tb1.112xlarge"]),
        ),
        (
            "instance_profile",
            "[A-Za-z0-9+=,.@_-]{1,64}".prop_map(text).boxed(),
        ),
        ("wait_for_cloud_init", flag()),
        ("subnet", one_of(&["subnet-0123456789abcdef0"])),
        (
            "ssh_interface",
            one_of(&["private_ip", "public_ip", "private_dns", "public_dns"]),
        ),
        ("ssh_port", number(1..=65_535)),
        ("ssh_timeout_seconds", number(1..=86_400)),
        ("source_cidrs", list(&["10.0.0.0/8", "192.0.2.1/32"])),
        ("encrypt", flag()),
        ("user_data", one_of(&["user-data"])),
        ("timeout_seconds", number(1..=172_800)),
    ])
}

fn configuration() -> BoxedStrategy<toml::Table> {
    let tags = prop::collection::btree_map(tag_text(), tag_text().prop_map(text), 0..4);
    let tags = tags
        .prop_map(|tags| tags.into_iter().collect::<toml::Table>())
        .boxed();
    some(vec![
        ("image", table(image())),
        ("bake", table(bake())),
        ("tags", table(tags)),
    ])
}

#[test]
fn every_recipe_with_any_configuration_is_valid_to_packer() {
    let version = packer();
    let recipes = ["al2023", "debian", "empty", "flask", "ubuntu"].map(|recipe| {
        let folder = tempfile::tempdir().unwrap();
        copied(folder.path(), recipe);
        std::fs::write(folder.path().join("script.sh"), "#!/bin/sh\n").unwrap();
        std::fs::write(folder.path().join("user-data"), "#cloud-config\n").unwrap();
        accepted(folder.path(), &["imagebuilder.toml"], &version);
        folder
    });
    let cases = std::env::var("PROPTEST_CASES").map_or(CASES, |cases| cases.parse().unwrap());
    let mut runner = TestRunner::new(Config {
        cases,
        // Each step of it is a process of Packer.
        max_shrink_iters: 60,
        failure_persistence: None,
        ..Config::default()
    });
    let any = (prop::sample::select(vec![0, 1, 2, 3, 4]), configuration());
    let outcome = runner.run(&any, |(recipe, over)| {
        let at = recipes[recipe].path();
        std::fs::write(at.join("over.toml"), toml::to_string(&over).unwrap()).unwrap();
        accepted(at, &["imagebuilder.toml", "over.toml"], &version);
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
