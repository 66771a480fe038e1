//! What is staged of an image's contents, what is refused, and the scripts that install it.

use std::os::unix::fs::{PermissionsExt, symlink};
use std::process::Command;

use super::*;
use crate::template::Facts;

const SHOP: &str = r#"
[image]
name = "shop"
kernel_arguments = ["quiet", "console=ttyS0,115200"]
imds_network = "unlocked"
[image.source]
owners = ["136693071363"]
name = "debian-12-*"
[image.agent]
binary = "binary"
[image.variables]
color = "blue"
[image.groups.shop]
gid = 777
[image.users.shop]
uid = 778
group = "shop"
groups = ["adm"]
home = "/srv/shop"
comment = "The shop, all of it"
[image.users.worker]
[[image.payload]]
source = "tree"
dest = "/srv/shop"
owner = "shop"
group = "shop"
[[image.payload]]
source = "motd"
dest = "/etc/motd"
template = true
[[image.folder]]
path = "/var/cache/shop"
mode = "2770"
owner = "shop"
group = "shop"
[[image.unit]]
source = "worker.service"
[[image.unit]]
source = "limits.conf"
drop_in_of = "worker.service"
[image.sysctl]
"net.core.somaxconn" = 1024
[[image.script]]
source = "setup.sh"
timeout_seconds = 60
environment = { GREETING = "it's ${HOME}" }
reboot = true
[services.worker]
health_url = "http://127.0.0.1:9090/gtg"
"#;

fn root() -> tempfile::TempDir {
    let root = tempfile::tempdir().unwrap();
    let at = root.path();
    let put = |name: &str, text: &str| std::fs::write(at.join(name), text).unwrap();
    std::fs::write(at.join("binary"), test_support::elf(62, "")).unwrap();
    std::fs::create_dir_all(at.join("tree/bin")).unwrap();
    std::fs::create_dir_all(at.join("tree/empty")).unwrap();
    put("tree/bin/run", "#!/bin/sh\n");
    put("tree/text with blanks", "text");
    std::fs::set_permissions(at.join("tree/bin/run"), PermissionsExt::from_mode(0o700)).unwrap();
    symlink("bin/run", at.join("tree/current")).unwrap();
    put("motd", "The color is {{ variables.color }}.\n");
    put(
        "worker.service",
        "[Service]\nExecStart=/bin/true\n[Install]\nWantedBy=multi-user.target\n",
    );
    put("limits.conf", "[Service]\nLimitNOFILE=4096\n");
    put(
        "setup.sh",
        "#!/bin/sh\necho \"$GREETING\" >>/srv/greeting\n",
    );
    root
}

fn gather(text: &str, root: &Path) -> anyhow::Result<Staging> {
    Staging::gather(&Config::parse(text, "test.toml").unwrap(), root, None)
}

fn digest(text: &str, root: &Path) -> String {
    let config = Config::parse(text, "test.toml").unwrap();
    let staging = Staging::gather(&config, root, None).unwrap();
    let facts = Facts {
        scripts: staging.scripts(),
        ..Facts::of_no_bake(cloud::ids::ImageId::parse("ami-1").unwrap())
    };
    staging.digest(&config, &facts, "").unwrap().0.to_string()
}

fn refusal(text: &str, root: &Path) -> String {
    let error = gather(text, root).unwrap_err();
    assert_eq!(Exit::of(&error), Exit::Usage, "{error:#}");
    format!("{error:#}")
}

#[test]
fn everything_is_staged_and_listed() {
    let root = root();
    let staging = gather(SHOP, root.path()).unwrap();
    let folder = tempfile::tempdir().unwrap();
    staging
        .write(folder.path(), "", &serde_json::json!({}))
        .unwrap();
    let read = |name: &str| std::fs::read_to_string(folder.path().join(name)).unwrap();
    for (list, text) in staging.contents.all_lists() {
        assert_eq!(read(&format!("imagebuilder/{list}")), text);
    }
    let lists = staging.contents.all_lists().into_iter();
    let lists: Vec<String> = lists
        .map(|(name, text)| format!("== {name}\n{text}"))
        .collect();
    insta::assert_snapshot!("lists", lists.concat());
    assert_eq!(staging.files["/srv/shop/bin/run"].mode, "0755");
    assert_eq!(staging.files["/srv/shop/text with blanks"].mode, "0644");
    assert_eq!(read("imagebuilder/root/etc/motd"), "The color is blue.\n");
    assert_eq!(
        read("imagebuilder/root/etc/sysctl.d/60-shop.conf")
            .lines()
            .last(),
        Some("net.core.somaxconn = 1024")
    );
    assert!(staging.units.contains(&"worker.service".to_owned()));
    insta::assert_snapshot!("script", read("scripts/01-setup.sh"));
    let names: Vec<String> = staging
        .scripts()
        .into_iter()
        .map(|script| script.path)
        .collect();
    let at = |name: &str| names.iter().position(|path| path == name).unwrap();
    assert!(at("provision/40-kernel.sh") < at("scripts/01-setup.sh"));
    assert!(at("scripts/01-setup.sh") < at("provision/80-record.sh"));
}

#[test]
fn all_contents_are_part_of_the_digest() {
    let root = root();
    let plain = digest(SHOP, root.path());
    assert_eq!(digest(SHOP, root.path()), plain);
    for (old, new) in [
        ("\"quiet\", ", ""),
        ("gid = 777", "gid = 779"),
        ("groups = [\"adm\"]", ""),
        ("mode = \"2770\"", "mode = \"2750\""),
        (
            "owner = \"shop\"\ngroup = \"shop\"\n[[image.payload]]",
            "[[image.payload]]",
        ),
        (
            "source = \"worker.service\"",
            "source = \"worker.service\"\nenable = false",
        ),
        ("= 1024", "= 1025"),
        ("timeout_seconds = 60", "timeout_seconds = 61"),
        ("it's", "is"),
        ("reboot = true", ""),
        ("color = \"blue\"", "color = \"red\""),
        (
            "[image.sysctl]",
            "[image.packages]\napt = [\"nginx\"]\n[image.sysctl]",
        ),
    ] {
        assert!(SHOP.contains(old), "{old}");
        assert_ne!(
            digest(&SHOP.replacen(old, new, 1), root.path()),
            plain,
            "{old}"
        );
    }
    std::fs::write(root.path().join("setup.sh"), "#!/bin/sh\n").unwrap();
    assert_ne!(digest(SHOP, root.path()), plain);
}

#[test]
fn unusable_sources_are_refused_before_a_bake() {
    let put = |root: &Path, name: &str, text: &[u8]| std::fs::write(root.join(name), text).unwrap();
    type Change = fn(&Path, &dyn Fn(&Path, &str, &[u8]));
    let changes: [(&str, Change); 9] = [
        ("first line names no interpreter", |root, put| {
            put(root, "setup.sh", b"echo\n")
        }),
        ("CR LF", |root, put| {
            put(root, "setup.sh", b"#!/bin/sh\necho\r\n")
        }),
        ("not text in UTF-8", |root, put| {
            put(root, "setup.sh", b"#!/bin/sh\n\xff")
        }),
        ("variables.colour", |root, put| {
            put(root, "motd", b"{{ variables.colour }}")
        }),
        ("motd:2", |root, put| put(root, "motd", b"\n{% if %}")),
        ("leaves the folder", |root, _| {
            symlink("../motd", root.join("tree/up")).unwrap()
        }),
        ("leaves the folder", |root, _| {
            symlink("/etc/motd", root.join("tree/abs")).unwrap()
        }),
        ("two files are to be /srv/shop/same", |root, put| {
            put(root, "tree/same", b"");
            let config = SHOP.replace("dest = \"/etc/motd\"", "dest = \"/srv/shop/same\"");
            std::fs::write(root.join("other.toml"), config).unwrap();
        }),
        ("cannot read", |root, _| {
            std::fs::remove_file(root.join("limits.conf")).unwrap()
        }),
    ];
    for (want, change) in changes {
        let root = root();
        change(root.path(), &put);
        let other = std::fs::read_to_string(root.path().join("other.toml"));
        let message = refusal(other.as_deref().unwrap_or(SHOP), root.path());
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    let root = root();
    put(root.path(), "worker.service", b"[Service]\n");
    let text = SHOP.replace(
        "source = \"worker.service\"",
        "source = \"worker.service\"\nenable = true",
    );
    let message = refusal(&text, root.path());
    assert!(message.contains("it has no [Install]"), "{message}");
}

#[test]
fn a_unit_that_a_package_brings_is_only_enabled() {
    let root = root();
    let text = format!("{SHOP}installed = true\nunit = \"nginx.service\"\n");
    let staging = gather(&text, root.path()).unwrap();
    assert_eq!(
        staging.contents.all_lists()["units-installed"],
        "nginx.service\n"
    );
    assert!(staging.units.contains(&"nginx.service".to_owned()));
    let message = refusal(&format!("{SHOP}unit = \"nginx.service\"\n"), root.path());
    assert!(
        message.contains("no unit nginx.service for service worker"),
        "{message}"
    );
}

#[test]
fn packer_parses_what_is_rendered() {
    let root = root();
    for text in [
        SHOP.to_owned(),
        SHOP.replace("reboot = true", ""),
        SHOP.replace("it's ${HOME}", "%{if} {{ .Path }}"),
    ] {
        let config = Config::parse(&text, "test.toml").unwrap();
        let staging = Staging::gather(&config, root.path(), None).unwrap();
        let facts = Facts {
            scripts: staging.scripts(),
            ..Facts::of_no_bake(cloud::ids::ImageId::parse("ami-1").unwrap())
        };
        let folder = tempfile::tempdir().unwrap();
        let template = staging.packer(&config, &facts).unwrap();
        staging
            .write(folder.path(), &template, &serde_json::json!({}))
            .unwrap();
        let output = Command::new("packer")
            .args(["validate", "-syntax-only", super::super::TEMPLATE])
            .current_dir(folder.path())
            .env("CHECKPOINT_DISABLE", "1")
            .output()
            .unwrap();
        let printed = [output.stdout, output.stderr].concat();
        assert!(
            output.status.success(),
            "{}\n{template}",
            String::from_utf8_lossy(&printed)
        );
    }
}

/// A Debian tree to change root into; none without the rights or the tree, which is printed.
fn tree() -> Option<tempfile::TempDir> {
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../.cache");
    let entries = std::fs::read_dir(cache).into_iter().flatten().flatten();
    let base = entries
        .map(|entry| entry.path())
        .filter(|path| path.join("usr/bin").is_dir())
        .find(|path| {
            path.file_name()
                .is_some_and(|name| name.to_string_lossy().starts_with("nspawn-bookworm-"))
        });
    let (true, Some(base)) = (rustix::process::geteuid().is_root(), base) else {
        eprintln!("left out: needs root, and a tree of agent/tests/systemd/base.sh in .cache");
        return None;
    };
    let tree = tempfile::tempdir_in("/var/tmp").unwrap();
    let copied = Command::new("cp")
        .args(["-a", "--reflink=auto", "--"])
        .arg(base.join("."))
        .arg(tree.path())
        .status()
        .unwrap();
    assert!(copied.success());
    Some(tree)
}

/// Stages a configuration into a tree, as Packer's upload does.
fn upload(text: &str, root: &Path, tree: &Path) -> Vec<Script> {
    let staging = gather(text, root).unwrap();
    let folder = tempfile::tempdir().unwrap();
    staging
        .write(folder.path(), "", &serde_json::json!({}))
        .unwrap();
    for (from, to) in [
        ("imagebuilder/.", "var/tmp/imagebuilder"),
        ("provision/.", "var/tmp/provision"),
        ("scripts/.", "var/tmp/scripts"),
    ] {
        std::fs::create_dir_all(tree.join(to)).unwrap();
        let (from, to) = (folder.path().join(from), tree.join(to));
        assert!(
            Command::new("cp")
                .arg("-a")
                .arg(from)
                .arg(to)
                .status()
                .unwrap()
                .success()
        );
    }
    staging.scripts()
}

fn in_tree(tree: &Path, command: &[&str]) -> (bool, String) {
    let output = Command::new("chroot")
        .arg(tree)
        .args(command)
        .env_clear()
        .env("SYSTEMD_OFFLINE", "1")
        .env("PATH", "/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin")
        .stdin(std::process::Stdio::null())
        .output()
        .unwrap();
    let text = [output.stdout, output.stderr].concat();
    (
        output.status.success(),
        String::from_utf8_lossy(&text).into_owned(),
    )
}

#[test]
fn the_provisioning_scripts_can_run_twice() {
    let (root, Some(tree)) = (root(), tree()) else {
        return;
    };
    let tree = tree.path();
    let stub = |name: &str| {
        let text = format!("#!/bin/sh\necho {name} \"$@\" >>/srv/calls\n");
        test_support::write_program(&tree.join("usr/local/bin").join(name), &text);
    };
    std::fs::create_dir_all(tree.join("usr/local/bin")).unwrap();
    stub("apt-get");
    stub("update-grub");
    let text = SHOP.replace(
        "[image.sysctl]",
        "[image.packages]\napt = [\"nginx\", \"curl=7.88.*\"]\n[image.sysctl]",
    );
    for _ in 0..2 {
        for script in upload(&text, root.path(), tree) {
            if script.path.ends_with("/90-clean.sh") {
                continue;
            }
            let (good, text) = in_tree(tree, &["/bin/sh", &format!("/var/tmp/{}", script.path)]);
            assert!(good, "{}: {text}", script.path);
        }
    }
    let check = |command: &str| {
        let (good, text) = in_tree(tree, &["/bin/sh", "-ec", command]);
        assert!(good, "{command}: {text}");
        text
    };
    assert_eq!(
        check(
            "cd /srv/shop; stat -c '%a %U:%G %n' . bin bin/run empty 'text with blanks' /var/cache/shop /etc/motd; readlink current"
        ),
        "755 shop:shop .\n755 shop:shop bin\n755 shop:shop bin/run\n755 shop:shop empty\n\
         644 shop:shop text with blanks\n2770 shop:shop /var/cache/shop\n644 root:root /etc/motd\nbin/run\n"
    );
    assert_eq!(
        check("getent passwd shop; id -Gn shop; getent passwd worker | cut -d: -f6,7"),
        "shop:x:778:777:The shop, all of it:/srv/shop:/usr/sbin/nologin\nshop adm\n/:/usr/sbin/nologin\n"
    );
    assert_eq!(
        check("systemctl is-enabled worker.service 2>/dev/null"),
        "enabled\n"
    );
    assert_eq!(check("cat /srv/greeting"), "it's ${HOME}\nit's ${HOME}\n");
    assert_eq!(
        check(". /etc/default/grub.d/60-imagebuilder.cfg; echo \"$GRUB_CMDLINE_LINUX\""),
        " quiet console=ttyS0,115200 systemd.imds.network=unlocked\n"
    );
    check(
        "grep -q '^systemd [^ ]* [^ ]*$' /etc/imagebuilder/packages && LC_ALL=C sort -c /etc/imagebuilder/packages",
    );
    let calls = check("cat /srv/calls");
    assert_eq!(
        calls.matches("install nginx curl=7.88.*\n").count(),
        2,
        "{calls}"
    );
    assert_eq!(calls.matches("update-grub").count(), 2, "{calls}");
    let (good, _) = in_tree(tree, &["/bin/sh", "/var/tmp/provision/90-clean.sh"]);
    assert!(good);
    assert!(!tree.join("var/tmp/imagebuilder").exists());
}

#[test]
fn what_the_image_lacks_is_named_on_the_builder() {
    let (root, Some(tree)) = (root(), tree()) else {
        return;
    };
    let tree = tree.path();
    for (old, new, script, want) in [
        (
            "\"adm\"",
            "\"nobodys\"",
            "07-users.sh",
            "is to be in the group nobodys, which this image does not have",
        ),
        (
            "owner = \"shop\"\n",
            "owner = \"missing\"\n",
            "10-install.sh",
            "/srv/shop is to belong to the user missing, whom",
        ),
        (
            "[services.worker]\n",
            "[services.worker]\ninstalled = true\nunit = \"nginx.service\"\n",
            "30-units.sh",
            "this image has no unit nginx.service: install its package",
        ),
        (
            "[image.sysctl]",
            "[image.packages]\ndnf = [\"a\"]\n[image.sysctl]",
            "06-packages.sh",
            "has a list for dnf only",
        ),
        (
            "\"quiet\"",
            "\"quiet\"",
            "40-kernel.sh",
            "needs update-grub or grubby",
        ),
        (
            "timeout_seconds = 60",
            "timeout_seconds = 1",
            "../scripts/01-setup.sh",
            "did not end within 1 s",
        ),
    ] {
        assert!(SHOP.contains(old), "{old}");
        let text = SHOP.replacen(old, new, 1);
        std::fs::write(root.path().join("setup.sh"), "#!/bin/sh\nsleep 600\n").unwrap();
        upload(&text, root.path(), tree);
        let (good, printed) = in_tree(tree, &["/bin/sh", &format!("/var/tmp/provision/{script}")]);
        assert!(!good, "{script}: {printed}");
        assert!(printed.contains(want), "{printed}\nmisses {want}");
    }
}
