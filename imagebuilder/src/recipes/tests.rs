use cloud::ids::ImageId;

use super::*;
use crate::config::Config;
use crate::staging::Staging;
use crate::template::Facts;

/// A recipe copied into a folder of its own, with payloads that stand for the user's.
fn copied(recipe: Recipe) -> (tempfile::TempDir, Config) {
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join(CONFIG);
    recipe.copy(root.path(), &config).unwrap();
    let text = std::fs::read_to_string(config).unwrap();
    let config = Config::parse(&text, recipe.name).unwrap();
    let services = config.services.values();
    let programs = services.filter_map(|service| service.binary.as_deref());
    for program in programs.chain([config.image.agent.binary.as_path()]) {
        let path = root.path().join(program);
        std::fs::create_dir_all(path.parent().unwrap()).unwrap();
        std::fs::write(path, test_support::elf(62, "")).unwrap();
    }
    (root, config)
}

fn refusal(error: &anyhow::Error) -> String {
    assert_eq!(Exit::of(error), Exit::Usage);
    format!("{error:#}")
}

#[test]
fn every_recipe_has_a_title() {
    let names: Vec<&str> = all().into_iter().map(|recipe| recipe.name).collect();
    assert_eq!(names, ["al2023", "debian", "empty", "flask", "ubuntu"]);
    let folders: std::collections::BTreeSet<_> = embedded::FILES
        .iter()
        .filter_map(|(path, _)| Some(path.split_once('/')?.0))
        .collect();
    assert_eq!(folders.into_iter().collect::<Vec<_>>(), names);
}

#[test]
fn every_recipe_renders_for_both_packers() {
    for recipe in all() {
        let (root, config) = copied(recipe);
        assert!(config.settings().is_ok(), "{}", recipe.name);
        let staging = Staging::gather(&config, root.path(), None).unwrap();
        for (plugins, release) in [(false, "1_6_6"), (true, "current")] {
            let facts = Facts {
                plugins,
                scripts: staging.scripts(),
                region: "us-east-1".to_owned(),
                ami_name: format!("{}-render", config.image.name),
                key_name: "render".to_owned(),
                ..Facts::of_no_bake(ImageId::parse("ami-0source").unwrap())
            };
            let text = staging.packer(&config, &facts).unwrap();
            insta::assert_snapshot!(format!("{}_{release}", recipe.name), text);
        }
        let files: Vec<String> = staging
            .files
            .iter()
            .map(|(dest, file)| format!("{} {dest}", file.mode))
            .collect();
        insta::assert_snapshot!(format!("{}_files", recipe.name), files.join("\n"));
    }
}

/// A user who begins with a recipe should not begin with a warning.
#[test]
fn no_check_of_a_recipe_is_doubted() {
    for recipe in all() {
        let (root, config) = copied(recipe);
        let staging = Staging::gather(&config, root.path(), None).unwrap();
        assert_eq!(staging.doubts(&config).unwrap(), [], "{}", recipe.name);
    }
}

#[test]
fn unknown_recipes_are_refused_with_the_nearest() {
    for (name, hint) in [
        ("flsk", "did you mean `flask`?"),
        ("al2022", "did you mean `al2023`?"),
        (
            "windows",
            "choose one of al2023, debian, empty, flask, ubuntu",
        ),
        ("", "choose one of al2023, debian, empty, flask, ubuntu"),
        ("flask/app", "choose one of"),
    ] {
        let error = anyhow::Error::from(find(name).unwrap_err());
        let message = refusal(&error);
        assert!(message.contains("unknown recipe"), "{name}: {message}");
        let hinted = run::exit::hint(&error).unwrap();
        assert!(hinted.contains(hint), "{name}: {hinted}");
    }
}

#[test]
fn existing_files_are_listed_and_nothing_is_written() {
    let recipe = find("flask").unwrap();
    let root = tempfile::tempdir().unwrap();
    let config = root.path().join("other.toml");
    std::fs::create_dir(root.path().join("app")).unwrap();
    std::fs::write(root.path().join("app/app.py"), "mine").unwrap();
    std::os::unix::fs::symlink("nowhere", root.path().join("requirements.in")).unwrap();
    let message = refusal(&recipe.copy(root.path(), &config).unwrap_err());
    assert_eq!(message.matches("exists already").count(), 2, "{message}");
    for name in ["app/app.py", "requirements.in"] {
        assert!(message.contains(name), "{message}");
    }
    assert_eq!(
        std::fs::read(root.path().join("app/app.py")).unwrap(),
        b"mine"
    );
    let mut left: Vec<_> = std::fs::read_dir(root.path())
        .unwrap()
        .map(|entry| entry.unwrap().file_name())
        .collect();
    left.sort();
    assert_eq!(left, ["app", "requirements.in"]);
}

#[test]
fn a_lock_without_hashes_is_refused_before_the_bake() {
    let (root, config) = copied(find("flask").unwrap());
    std::fs::write(root.path().join("requirements.lock"), "flask==3.1.3\n").unwrap();
    let message = refusal(&Staging::gather(&config, root.path(), None).unwrap_err());
    assert!(message.contains("`flask==3.1.3` has no hash"), "{message}");
}

#[test]
fn gunicorn_may_call_chown_for_its_socket() {
    let mut files = find("flask").unwrap().files();
    let (_, unit) = files
        .find(|(path, _)| *path == "files/app.service")
        .unwrap();
    let filters: Vec<&str> = unit
        .lines()
        .filter_map(|line| line.strip_prefix("SystemCallFilter="))
        .collect();
    // `@privileged` has chown; what stands behind it counts.
    assert_eq!(
        filters,
        ["@system-service", "~@privileged @resources", "@chown"]
    );
}
