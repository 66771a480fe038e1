//! The command line as a user meets it: help, refusals, hints and exit codes, kept as golden files.
#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use std::path::Path;
use std::process::{Command, Output};

fn imagebuilder(folder: &Path) -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_imagebuilder"));
    command
        .current_dir(folder)
        .env_clear()
        .env("PATH", folder.join("bin"));
    command
}

fn printed(output: &Output, folder: &Path) -> String {
    let place = folder.display().to_string();
    format!(
        "exit {}\n--- stdout\n{}--- stderr\n{}",
        output.status.code().unwrap(),
        String::from_utf8_lossy(&output.stdout).replace(&place, "FOLDER"),
        String::from_utf8_lossy(&output.stderr).replace(&place, "FOLDER"),
    )
}

fn scene() -> tempfile::TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::create_dir(folder.path().join("bin")).unwrap();
    std::fs::create_dir(folder.path().join("payload")).unwrap();
    std::fs::write(
        folder.path().join("payload/imagebuilder-agent"),
        test_support::elf(62, "agent"),
    )
    .unwrap();
    std::fs::write(
        folder.path().join("payload/orders"),
        test_support::elf(62, "orders"),
    )
    .unwrap();
    assert!(
        imagebuilder(folder.path())
            .arg("init")
            .status()
            .unwrap()
            .success()
    );
    folder
}

fn program(folder: &Path, name: &str, text: &str) {
    test_support::write_program(&folder.join("bin").join(name), text);
}

#[test]
fn help_of_every_subcommand() {
    let folder = tempfile::tempdir().unwrap();
    for verb in [
        &[][..],
        &["init"],
        &["config"],
        &["config", "show"],
        &["doctor"],
        &["render"],
        &["bake"],
        &["roll"],
        &["roll", "watch"],
        &["roll", "rollback"],
        &["status"],
        &["images"],
        &["reap"],
        &["channel"],
        &["channel", "init"],
        &["channel", "publish"],
        &["channel", "promote"],
        &["channel", "withdraw"],
        &["channel", "refresh"],
        &["channel", "rotate-root"],
        &["channel", "show"],
    ] {
        let output = imagebuilder(folder.path())
            .args(verb)
            .arg("--help")
            .env("COLUMNS", "80")
            .output()
            .unwrap();
        assert!(output.status.success());
        let name = if verb.is_empty() {
            "help".to_owned()
        } else {
            verb.join("-")
        };
        insta::assert_snapshot!(
            format!("help-{name}"),
            String::from_utf8_lossy(&output.stdout)
        );
    }
}

#[test]
fn wrong_usage_and_configuration_are_exit_2() {
    let folder = scene();
    let at = folder.path();
    let refused = |args: &[&str]| printed(&imagebuilder(at).args(args).output().unwrap(), at);
    insta::assert_snapshot!(
        "refused-no-config",
        refused(&["bake", "--config", "none.toml"])
    );
    insta::assert_snapshot!("refused-init-twice", refused(&["init"]));
    insta::assert_snapshot!(
        "refused-no-release",
        refused(&["render", "--packer", "new"])
    );
    let text = std::fs::read_to_string(at.join("imagebuilder.toml")).unwrap();
    std::fs::write(
        at.join("typo.toml"),
        text.replace("instance_type", "instance_typ"),
    )
    .unwrap();
    assert_eq!(
        imagebuilder(at)
            .args(["bake", "--config", "typo.toml"])
            .status()
            .unwrap()
            .code(),
        Some(2)
    );
    std::fs::remove_file(at.join("payload/orders")).unwrap();
    insta::assert_snapshot!("refused-no-binary", refused(&["render"]));
}

#[test]
fn layers_are_shown_with_their_origin() {
    let folder = scene();
    let at = folder.path();
    let overlay = "[bake]\ninstance_type = \"c7i.large\"\n[services.orders.environment]\nTOKEN = \"hunter2\"\n";
    std::fs::create_dir(at.join("stages")).unwrap();
    std::fs::write(at.join("stages/prod.toml"), overlay).unwrap();
    let layers = ["-c", "imagebuilder.toml", "-c", "stages/prod.toml"];
    let show = |more: &[&str]| {
        let mut command = imagebuilder(at);
        command
            .args(["config", "show"])
            .args(layers)
            .args(more)
            .env("IMAGEBUILDER_ROLL__POLL_SECONDS", "9")
            .env("IMAGEBUILDER_LOG", "off");
        printed(&command.output().unwrap(), at)
    };
    let set = ["--set", "fleet.group=prod", "--region", "eu-north-1"];
    insta::assert_snapshot!("config-show", show(&set));
    let json = show(&["--json"]);
    assert!(json.starts_with("exit 0\n"), "{json}");
    assert!(!json.contains("hunter2"), "{json}");
    assert!(show(&["--reveal"]).contains("TOKEN = \"hunter2\"  # stages/prod.toml:4"));

    // An invalid one is shown all the same, and refused.
    let refused = show(&["--set", "bake.gat.timeout_seconds=1"]);
    assert!(refused.starts_with("exit 2\n"), "{refused}");
    for want in [
        "[bake.gat]\ntimeout_seconds = 1  # --set",
        "error: --set bake.gat.timeout_seconds: unknown field `gat`",
        "hint: did you mean `gate`?",
    ] {
        assert!(refused.contains(want), "{refused}\nmisses {want}");
    }

    // What it prints is a configuration, and the same one.
    let output = imagebuilder(at)
        .args(["config", "show", "--reveal"])
        .args(layers)
        .output()
        .unwrap();
    std::fs::write(at.join("flat.toml"), output.stdout).unwrap();
    let render = |files: &[&str]| {
        let output = imagebuilder(at).arg("render").args(files).output().unwrap();
        assert!(output.status.success(), "{}", printed(&output, at));
        output.stdout
    };
    assert_eq!(render(&layers), render(&["-c", "flat.toml"]));
    assert_ne!(render(&layers), render(&[]));
}

#[test]
fn paths_of_every_layer_start_from_the_first_file() {
    let folder = scene();
    let at = folder.path();
    std::fs::create_dir(at.join("stages")).unwrap();
    std::fs::write(at.join("payload/motd"), "hello").unwrap();
    let overlay = "[[image.payload]]\nsource = \"payload/motd\"\ndest = \"/etc/motd\"\n";
    std::fs::write(at.join("stages/prod.toml"), overlay).unwrap();
    let render = |files: &[&str]| imagebuilder(at).arg("render").args(files).output().unwrap();
    let output = render(&["-c", "imagebuilder.toml", "-c", "stages/prod.toml"]);
    assert!(output.status.success(), "{}", printed(&output, at));
    // In the other order the folder is another one, and the hint says so with all layers.
    let output = render(&["-c", "stages/prod.toml", "-c", "imagebuilder.toml"]);
    let text = printed(&output, at);
    assert!(text.starts_with("exit 2\n"), "{text}");
    assert!(text.contains("stages/payload/"), "{text}");
}

#[test]
fn options_of_the_aws_cli_are_checked_first() {
    let folder = scene();
    let at = folder.path();
    std::fs::create_dir(at.join(".aws")).unwrap();
    let profiles = "[default]\nregion = eu-west-1\n[profile releases]\nregion = eu-north-1\n";
    std::fs::write(at.join(".aws/config"), profiles).unwrap();
    let refused = |args: &[&str]| {
        let output = imagebuilder(at).env("HOME", at).args(args).output();
        printed(&output.unwrap(), at)
    };
    insta::assert_snapshot!(
        "refused-options",
        [
            refused(&["bake", "-c", "none.toml", "--profile", "release"]),
            refused(&["bake", "-c", "none.toml", "--profile", "x"]),
            refused(&["bake", "-c", "none.toml", "--region", "eu north 1"]),
            refused(&["status", "--endpoint-url", "localhost:4566"]),
            refused(&["status", "--endpoint-url", "http://me:secret@x"]),
            refused(&["status", "--set", "bake.region"]),
            refused(&["init", "--set", "bake.region=x"]),
        ]
        .join("\n")
    );
}

#[test]
fn hints_repeat_the_options_of_the_call() {
    let folder = scene();
    let at = folder.path();
    let overlay = "[channel]\nrepository = \"channel\"\n";
    std::fs::write(at.join("my prod.toml"), overlay).unwrap();
    let output = imagebuilder(at)
        .args(["-c", "imagebuilder.toml", "channel", "show"])
        .args(["-c", "my prod.toml", "--region", "eu-north-1"])
        .args(["--set", "bake.share=[\"111111111111\"]"])
        .output()
        .unwrap();
    insta::assert_snapshot!("hint-with-options", printed(&output, at));
}

#[test]
fn what_preflight_refuses_is_exit_3_with_its_hint() {
    let folder = scene();
    let at = folder.path();
    let bake = || {
        let mut command = imagebuilder(at);
        // No metadata service of the test's own host may answer.
        command
            .arg("bake")
            .env("AWS_EC2_METADATA_DISABLED", "true")
            .env("HOME", at);
        command
    };
    let keys = |command: &mut Command| {
        command
            .env("AWS_ACCESS_KEY_ID", "x")
            .env("AWS_SECRET_ACCESS_KEY", "y");
    };
    program(at, "packer", "#!/bin/sh\necho 'Packer v1.6.6'\n");
    let output = bake().output().unwrap();
    let text = printed(&output, at);
    assert!(text.starts_with("exit 3\n"), "{text}");
    assert!(
        text.contains("error: no AWS credentials were found"),
        "{text}"
    );
    assert!(
        text.contains("AWS_PROFILE") && text.contains("rehearsal exec"),
        "{text}"
    );

    let mut unreachable = bake();
    keys(&mut unreachable);
    unreachable.env("AWS_ENDPOINT_URL", "http://127.0.0.1:1");
    insta::assert_snapshot!(
        "refused-dead-endpoint",
        printed(&unreachable.output().unwrap(), at)
    );

    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let endpoint = format!("http://{}", listener.local_addr().unwrap());
    let with_packer = |text: Option<&str>| {
        std::fs::remove_file(at.join("bin/packer")).ok();
        if let Some(text) = text {
            program(at, "packer", text);
        }
        let mut command = bake();
        keys(&mut command);
        printed(
            &command.env("AWS_ENDPOINT_URL", &endpoint).output().unwrap(),
            at,
        )
    };
    insta::assert_snapshot!("refused-no-packer", with_packer(None));
    insta::assert_snapshot!(
        "refused-old-packer",
        with_packer(Some("#!/bin/sh\necho 'Packer v1.5.6'\n"))
    );
    insta::assert_snapshot!(
        "refused-not-packer",
        with_packer(Some("#!/bin/sh\necho 'skipping line'\n"))
    );
}
