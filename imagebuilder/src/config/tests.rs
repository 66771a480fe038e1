//! What the configuration refuses, with its place.

use super::*;

const GOOD: &str = "[image]\nname = \"shop\"\n[image.source]\nowners = [\"self\"]\nname = \"x-*\"\n[image.agent]\nbinary = \"agent\"\n";

fn refusal(text: &str) -> String {
    let error = anyhow::Error::from(Config::parse(text, "ib.toml").unwrap_err());
    assert_eq!(Exit::of(&error), Exit::Usage);
    match run::exit::hint(&error) {
        Some(hint) => format!("{error:#} | {hint}"),
        None => format!("{error:#}"),
    }
}

#[test]
fn the_least_is_enough_and_defaults_are_safe() {
    let config = Config::parse(GOOD, "ib.toml").unwrap();
    assert_eq!(config.image.arch, Arch::X86_64);
    assert_eq!(config.bake.gate.timeout_seconds, 600);
    assert!(config.bake.share.is_empty());
}

#[test]
fn every_refusal_has_its_place_and_its_hint() {
    for (more, want) in [
        (
            "[bake]\nregoin = \"x\"\n",
            "ib.toml:9: unknown field `regoin`",
        ),
        ("[bake]\nregoin = \"x\"\n", "did you mean `region`?"),
        (
            "[bake]\nsubnet = \"shop\"\n",
            "ib.toml:9: `shop` is not a subnet id: it looks like subnet-",
        ),
        (
            "[bake]\nshare = [\"me\"]\n",
            "ib.toml:9: `me` is not an account id: it has twelve digits",
        ),
        (
            "[services.\"a b\"]\nhealth_url = \"x\"\n",
            "`a b` is not a service name",
        ),
        (
            "[[image.payload]]\nsource = \"a\"\ndest = \"b\"\n",
            "path `b` on the image is not an absolute path",
        ),
        (
            "[[image.payload]]\nsource = \"a\"\ndest = \"/b\"\nmode = \"rwx\"\n",
            "mode `rwx` is not octal like 0644",
        ),
        (
            "[services.orders]\nhealth_url = \"https://x/gtg\"\n",
            "[services.orders] health_url `https://x/gtg` is not a URL that the agent can request",
        ),
        (
            "gate = { passes = 0 }\n",
            "ib.toml: [image.agent.gate] passes is 0; it must be 1 to 1000",
        ),
        (
            "gate = { passes = 10, deadline_seconds = 18 }\n",
            "10 passes 2 s apart do not fit into it",
        ),
        (
            "drain = { url = \"http://shop.example/\", deadline_seconds = 172801 }\n",
            "ib.toml: [image.agent.drain] url: not a plain HTTP address of this instance: use one on loopback, such as \
             http://127.0.0.1:8080/busy\nib.toml: [image.agent.drain] deadline_seconds: 172801 is not between 1 and 172800",
        ),
        (
            "drain = { settle_second = 1 }\n",
            "did you mean `settle_seconds`?",
        ),
        (
            "[channel]\nrepository = \"channel\"\nurll = \"x\"\n",
            "ib.toml:10: unknown field `urll`",
        ),
        (
            "[channel]\nrepository = \"channel\"\nurll = \"x\"\n",
            "did you mean `url`?",
        ),
        (
            "[channel]\nrepository = \"channel\"\n[channel.keys]\ntarget = []\n",
            "did you mean `targets`?",
        ),
        (
            "[channel]\nrepository = \"channel\"\nurl = \"http://x\"\n",
            "ib.toml: [channel] url `http://x` is not encrypted",
        ),
        ("nonsense", "ib.toml:8: "),
    ] {
        let message = refusal(&format!("{GOOD}{more}"));
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    let message = refusal(&GOOD.replace("\"self\"", ""));
    assert!(message.contains("owners is empty"), "{message}");
    let message = refusal(&GOOD.replace("x-*", ""));
    assert!(
        message.contains("[image.source] name is empty"),
        "{message}"
    );
    let message = refusal(&GOOD.replace("name = \"shop\"", "name = \"Shop\""));
    assert!(
        message.starts_with("ib.toml:2: `Shop` is not an image name"),
        "{message}"
    );
}

#[test]
fn invalid_combinations_are_refused_when_read() {
    const KEYED: &str = "encrypt = true\nkms_key = \"alias/images\"\n";
    for (bake, want) in [
        (
            "kms_key = \"alias/images\"",
            "[bake] kms_key is set without encrypt",
        ),
        (
            "encrypt = true\nshare = [\"123456789012\"]",
            "[bake] share needs kms_key with encrypt",
        ),
        ("vpc = \"vpc-1\"", "[bake] vpc needs subnet"),
        ("copy = [\"eu-west-1\"]", "[bake] copy is not supported yet"),
        ("ssh_interface = \"pubic_ip\"", "did you mean `public_ip`?"),
        (
            "ssh_interface = \"session_manager\"",
            "unknown variant `session_manager`",
        ),
        (
            "source_cidrs = [\"my office\"]",
            "invalid IP address syntax",
        ),
        (
            "source_cidrs = [\"10.0.0.0/33\"]",
            "invalid IP address syntax",
        ),
        ("kms_key = \"{{ user `x` }}\"", "is not a KMS key"),
        ("ssh_port = 0", "[bake] ssh_port is 0"),
        ("ssh_timeout_seconds = 0", "ssh_timeout_seconds is 0"),
        ("timeout_seconds = 0", "[bake] timeout_seconds is 0"),
        (
            "gate = { timeout_seconds = 0 }",
            "gate.timeout_seconds is 0",
        ),
        ("instance_type = \"\"", "[bake] instance_type is empty"),
    ] {
        let message = refusal(&format!("{GOOD}[bake]\n{bake}\n"));
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    let shared = format!("{GOOD}[bake]\n{KEYED}share = [\"123456789012\"]\n");
    let config = Config::parse(&shared, "ib.toml").unwrap();
    assert!(matches!(config.bake.encryption(), Some(Encryption::Key(_))));

    for (dest, want) in [
        ("/etc/../root/.ssh/authorized_keys", "no `..`"),
        ("/etc//motd", "no `..`, `.`, `//`"),
        ("/etc/./motd", "is not a file's plain path"),
        ("/etc/", "no `/` at its end"),
        ("/", "no `/` at its end"),
        ("/etc/motd ", "ends with a blank"),
        ("/etc/motd\\n0644 /etc/shadow", "has a line break"),
    ] {
        let message = refusal(&format!(
            "{GOOD}[[image.payload]]\nsource = \"a\"\ndest = \"{dest}\"\n"
        ));
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    let one = "[[image.payload]]\nsource = \"a\"\ndest = \"/etc/motd\"\n";
    let message = refusal(&format!("{GOOD}{one}{one}"));
    assert!(
        message.contains("two payloads have the dest `/etc/motd`"),
        "{message}"
    );

    for (environment, want) in [
        ("\"BAD KEY\" = \"x\"", "`BAD KEY` is not the name of"),
        ("\"\" = \"x\"", "`` is not the name of"),
        ("\"1A\" = \"x\"", "`1A` is not the name of"),
        ("\"A=B\" = \"x\"", "`A=B` is not the name of"),
        ("A = \"x\\ny\"", "the value of A has a line break"),
        ("A = \"x\\u0000\"", "the value of A has a line break"),
    ] {
        let message = refusal(&format!(
            "{GOOD}[services.orders]\nhealth_url = \"http://x/\"\nenvironment = {{ {environment} }}\n"
        ));
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    for unit in ["orders", "../orders.service", "a b.service", ".service"] {
        let message = refusal(&format!(
            "{GOOD}[services.orders]\nhealth_url = \"http://x/\"\nunit = \"{unit}\"\n"
        ));
        assert!(
            message.contains("is not the name of a systemd unit"),
            "{message}"
        );
    }
    for (image, want) in [
        ("ssh_username = \"{{ x }}\"", "is not a user's name"),
        ("ssh_username = \"\"", "is not a user's name"),
    ] {
        let message =
            refusal(&GOOD.replace("name = \"shop\"", &format!("name = \"shop\"\n{image}")));
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
    for owner in ["*", "", "debian", "12345678901"] {
        let message = refusal(&GOOD.replace("\"self\"", &format!("\"{owner}\"")));
        assert!(message.contains("is not an owner of images"), "{message}");
    }
}

#[test]
fn contents_that_no_image_can_have_are_refused() {
    for (more, want) in [
        (
            "[image.packages]\napt = [\"a b\"]",
            "apt: `a b` is not a package that apt takes",
        ),
        ("[image.packages]\napt = [\"\"]", "apt: `` is not a package"),
        (
            "[image.packages]\napt = [\"-x\"]",
            "apt: `-x` is not a package",
        ),
        (
            "[image.packages]\napt = [\"nginx-\"]",
            "apt: `nginx-` is not a package",
        ),
        (
            "[image.packages]\napt = [\"nginx=\"]",
            "apt: `nginx=` is not a package",
        ),
        (
            "[image.packages]\napt = [\"a\", \"a=1\"]",
            "apt names `a` twice",
        ),
        (
            "[image.packages]\ndnf = [\"--nogpgcheck\"]",
            "dnf: `--nogpgcheck` is not a package",
        ),
        ("[image.packages]\nyum = [\"a\"]", "unknown field `yum`"),
        (
            "[image.packages]\narchives = [\"http://x/ sid main\", \"http://x/ sid main\"]",
            "archives: `http://x/ sid main` is there twice",
        ),
        (
            "[image.packages]\narchives = [\"https://me:secret@x/ sid main\"]",
            "archives: `…` has a URL with a user or a password",
        ),
        (
            "[image.users.Bad]",
            "[image.users.Bad] is not a user's name",
        ),
        (
            "[image.users.root]",
            "[image.users.root] is there on every image",
        ),
        ("[image.users.a]\nuid = 0", "[image.users.a] uid is 0"),
        (
            "[image.users.a]\nuid = 9\n[image.users.b]\nuid = 9",
            "[image.users.b] and [image.users.a] have one uid, 9",
        ),
        (
            "[image.users.a]\ngroups = [\"x y\"]",
            "`x y` is not a group's name",
        ),
        (
            "[image.users.a]\nhome = \"srv\"",
            "home `srv` is not an absolute path",
        ),
        (
            "[image.users.a]\nshell = \"/bin/a b\"",
            "shell `/bin/a b` is not an absolute path",
        ),
        ("[image.users.a]\ncomment = \"a:b\"", "comment has a colon"),
        ("[image.users.a]\nuidd = 1", "did you mean `uid`?"),
        (
            "[image.groups.\"1a\"]",
            "[image.groups.1a] is not a group's name",
        ),
        (
            "[image.groups.a]\ngid = 65535",
            "[image.groups.a] gid is 65535",
        ),
        (
            "[[image.payload]]\nsource = \"a\"\ndest = \"/b\"\nowner = \"a:b\"",
            "owner `a:b` is not a name",
        ),
        (
            "[[image.folder]]\npath = \"b\"",
            "path `b` on the image is not an absolute path",
        ),
        (
            "[[image.folder]]\npath = \"/b\"\n[[image.folder]]\npath = \"/b\"",
            "[[image.folder]] /b is there twice",
        ),
        (
            "[[image.folder]]\npath = \"/b\"\ngroup = \"\"",
            "group `` is not a name",
        ),
        (
            "[[image.unit]]\nsource = \"worker\"",
            "is not named as a systemd unit",
        ),
        (
            "[[image.unit]]\nsource = \"a.device\"",
            "is not named as a systemd unit",
        ),
        (
            "[[image.unit]]\nsource = \"a.service\"\ndrop_in_of = \"nginx.service\"",
            "is not a drop-in's name",
        ),
        (
            "[[image.unit]]\nsource = \"a.conf\"\ndrop_in_of = \"nginx\"",
            "drop_in_of `nginx` is not the name of",
        ),
        (
            "[[image.unit]]\nsource = \"a.conf\"\ndrop_in_of = \"a.service\"\nenable = true",
            "is a drop-in, so `enable` means nothing",
        ),
        (
            "[image.sysctl]\nsomaxconn = 1",
            "`somaxconn` is not a kernel setting",
        ),
        (
            "[image.sysctl]\n\"net. x\" = 1",
            "`net. x` is not a kernel setting",
        ),
        (
            "[image.sysctl]\n\"a.b\" = 1.5",
            "a.b is neither a number nor a text",
        ),
        (
            "[image.sysctl]\n\"a.b\" = \"1\\n2\"",
            "a.b is neither a number nor a text",
        ),
        (
            "[[image.script]]\nsource = \"a b.sh\"",
            "is not a script's plain name",
        ),
        (
            "[[image.script]]\nsource = \"a.sh\"\ntimeout_seconds = 0",
            "timeout_seconds is 0; it must be 1 to 86400",
        ),
        (
            "[[image.script]]\nsource = \"a.sh\"\nenvironment = { \"A B\" = \"x\" }",
            "`A B` is not the name of",
        ),
        (
            "[services.nginx]\nbinary = \"x\"\ninstalled = true\nhealth_url = \"http://x/\"",
            "[services.nginx] has `installed = true`",
        ),
    ] {
        let message = refusal(&format!("{GOOD}{more}\n"));
        assert!(message.contains(want), "{more}: {message}\nmisses {want}");
    }
    for (argument, want) in [
        ("\"a b\"", "`a b` is not one kernel argument"),
        ("\"$(reboot)\"", "is not one kernel argument"),
        ("\"a\\\"b\"", "is not one kernel argument"),
        ("\"--\"", "`--` is not one kernel argument"),
        (
            "\"quiet\", \"quiet\"",
            "kernel_arguments names `quiet` twice",
        ),
    ] {
        let named = format!("name = \"shop\"\nkernel_arguments = [{argument}]");
        let message = refusal(&GOOD.replace("name = \"shop\"", &named));
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
}

#[test]
fn a_source_is_named_in_exactly_one_way() {
    let with = |keys: &str| GOOD.replace("owners = [\"self\"]\nname = \"x-*\"\n", keys);
    for (keys, want) in [
        ("", "[image.source] is empty: exactly one of"),
        ("name = \"x\"\n", "name needs owners"),
        ("owners = [\"self\"]\n", "owners needs name"),
        (
            "id = \"ami-1\"\nssm_parameter = \"/a\"\n",
            "[image.source] has id, ssm_parameter: exactly one of",
        ),
        (
            "owners = [\"self\"]\nname = \"x\"\nid = \"ami-1\"\n",
            "[image.source] has owners, name, id",
        ),
        ("id = \"i-1\"\n", "`i-1` is not an image id"),
        (
            "ssm_parameter = \"a/b\"\n",
            "is not the name of a parameter",
        ),
        (
            "ssm_parameter = \"/a b\"\n",
            "is not the name of a parameter",
        ),
        ("ssm_parameters = \"/a\"\n", "did you mean `ssm_parameter`?"),
    ] {
        let message = refusal(&with(keys));
        assert!(message.contains(want), "{keys}: {message}\nmisses {want}");
        assert!(message.starts_with("ib.toml:"), "{keys}: {message}");
    }
    let source = |keys: &str| Config::parse(&with(keys), "x").unwrap().image.source;
    assert!(!source("id = \"ami-1\"\n").deprecated);
    let by_parameter = source("ssm_parameter = \"/a/b:3\"\ndeprecated = true\n");
    assert_eq!(by_parameter.parameter(), Some("/a/b:3"));
    assert!(by_parameter.deprecated);
}

#[test]
fn keys_of_volumes_firmware_and_tags_are_closed() {
    for (keys, want) in [
        ("[image.root_volume]\nsize = 20\n", "unknown field `size`"),
        (
            "[image.root_volume]\ntype = \"gp4\"\n",
            "did you mean `gp3`?",
        ),
        (
            "[image.root_volume]\ntype = \"gp2\"\niops = 3000\n",
            "ib.toml: [image.root_volume] iops is 3000",
        ),
        (
            "[[image.volume]]\ndevice = \"sdf\"\nsize_gib = 1\n",
            "`sdf` is not the name of a device",
        ),
        (
            "[[image.volume]]\ndevice = \"/dev/sdf\"\n",
            "missing field `size_gib`",
        ),
        (
            "[tags]\nName = \"x\"\n",
            "ib.toml: [tags] `Name` is set by this program",
        ),
        (
            "[bake]\ninstance_profile = \"arn:aws:iam::1:instance-profile/x\"\n",
            "use its name, not its ARN",
        ),
    ] {
        let message = refusal(&format!("{GOOD}{keys}"));
        assert!(message.contains(want), "{keys}: {message}\nmisses {want}");
    }
    for (key, want) in [
        ("boot_mode = \"bios\"", "unknown variant `bios`"),
        ("imds = \"require\"", "did you mean `required`?"),
        ("imds_hops = 0", "imds_hops is 0; it must be 1 to 64"),
        ("imds_hops = 65", "imds_hops is 65; it must be 1 to 64"),
        (
            "imds_network = \"open\"",
            "unknown variant `open`, expected one of `unlocked`, `off`",
        ),
        (
            "imds_network = \"locked\"",
            "imds_network = \"locked\" keeps the agent, and every service",
        ),
        (
            "imds_network = \"off\"\nkernel_arguments = [\"systemd.imds.network=locked\"]",
            "imds_network and kernel_arguments both set systemd.imds.network=",
        ),
    ] {
        let text = GOOD.replace("name = \"shop\"", &format!("name = \"shop\"\n{key}"));
        let message = refusal(&text);
        assert!(message.contains(want), "{key}: {message}\nmisses {want}");
    }
}

#[test]
fn all_findings_come_at_once() {
    let message = refusal(&format!(
        "{GOOD}[bake]\nkms_key = \"alias/images\"\nvpc = \"vpc-1\"\ntimeout_seconds = 0\n"
    ));
    assert_eq!(message.lines().count(), 3, "{message}");
    assert!(
        message
            .lines()
            .all(|line| line.starts_with("ib.toml: [bake] ")),
        "{message}"
    );
}

#[test]
fn only_a_near_key_is_proposed() {
    assert_eq!(
        nearest("unknown field `regon`, expected one of `region`, `subnet`"),
        Some("region".into())
    );
    assert_eq!(nearest("unknown field `zzz`, expected `region`"), None);
    assert_eq!(nearest("missing field `name`"), None);
}
