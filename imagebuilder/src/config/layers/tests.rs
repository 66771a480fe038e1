//! Merging, precedence, places and refusals.

use proptest::prelude::*;
use serde::Deserialize as _;

use super::super::Config;
use super::*;

const BASE: &str = "[image]\nname = \"shop\"\n[image.source]\nowners = [\"self\"]\nname = \"x-*\"\n[image.agent]\nbinary = \"agent\"\n\
[bake]\ninstance_type = \"t3.small\"\nshare = [\"111111111111\", \"222222222222\"]\n\
[services.order-api]\nhealth_url = \"http://x/\"\n[services.order-api.environment]\nORDERS_STORE = \"file:///a\"\n\
[[image.payload]]\nsource = \"a\"\ndest = \"/etc/a\"\n[[image.payload]]\nsource = \"b\"\ndest = \"/etc/b\"\n";

/// Layers of `base.toml` and, unless it is empty, `prod.toml`; variables `NAME=VALUE` without our prefix; `--set`.
fn layers(over: &str, variables: &[&str], set: &[&str]) -> Result<Layers, Failure> {
    let mut files = vec![("base.toml".into(), BASE.to_owned())];
    if !over.is_empty() {
        files.push(("prod.toml".into(), over.to_owned()));
    }
    let environment = variables.iter().map(|variable| {
        let (name, value) = variable.split_once('=').unwrap();
        (format!("IMAGEBUILDER_{name}"), value.to_owned())
    });
    let given = Given {
        environment: environment.collect(),
        set: set.iter().map(|text| text.parse().unwrap()).collect(),
        ..Given::default()
    };
    Layers::of(files, &given)
}

fn config(over: &str, variables: &[&str], set: &[&str]) -> Config {
    let layers = layers(over, variables, set).unwrap();
    Config::of(&layers)
        .unwrap_or_else(|error| panic!("{over} {variables:?} {set:?}: {error}"))
        .remove(0)
}

fn refusal(over: &str, variables: &[&str], set: &[&str]) -> String {
    let error = layers(over, variables, set).and_then(|layers| Config::of(&layers).map(drop));
    let error = anyhow::Error::from(error.unwrap_err());
    assert_eq!(Exit::of(&error), Exit::Usage);
    match run::exit::hint(&error) {
        Some(hint) => format!("{error:#} | {hint}"),
        None => format!("{error:#}"),
    }
}

#[test]
fn files_are_below_the_environment_below_set() {
    let file = "[bake]\ninstance_type = \"m7i.large\"\n";
    let variable = "BAKE__INSTANCE_TYPE=c7i.large";
    let set = "bake.instance_type=r7i.large";
    for (over, variables, set, want) in [
        ("", &[][..], &[][..], "t3.small"),
        (file, &[], &[], "m7i.large"),
        (file, &[variable], &[], "c7i.large"),
        ("", &[variable], &[], "c7i.large"),
        (file, &[variable], &[set], "r7i.large"),
        ("", &[], &["bake.instance_type=a", set], "r7i.large"),
    ] {
        let found = config(over, variables, set).instance_type().to_owned();
        assert_eq!(found, want, "{over} {variables:?} {set:?}");
    }
}

#[test]
fn tables_merge_and_arrays_replace() {
    let over = "[bake]\nshare = [\"333333333333\"]\n[[image.payload]]\nsource = \"c\"\ndest = \"/etc/c\"\n\
                [services.order-api]\nunit = \"o.service\"\n";
    let merged = config(over, &[], &[]);
    assert_eq!(merged.bake.share.len(), 1);
    assert_eq!(merged.image.payload.len(), 1);
    assert_eq!(merged.image.payload[0].dest.as_str(), "/etc/c");
    assert_eq!(merged.instance_type(), "t3.small");
    let service = merged.services.values().next().unwrap();
    assert_eq!(service.unit.as_deref(), Some("o.service"));
    assert_eq!(service.health_url.as_deref(), Some("http://x/"));
}

#[test]
fn set_and_variables_take_toml_or_a_bare_text() {
    for (set, want) in [
        ("bake.source_cidrs=[\"10.0.0.0/8\"]", "10.0.0.0/8"),
        ("bake.timeout_seconds=77", "timeout_seconds: 77"),
        ("roll.auto_rollback=false", "auto_rollback: false"),
        ("bake.instance_type=\"c7i.large\"", "c7i.large"),
        (
            "services.order-api.environment.PORT=8080",
            "\"PORT\": \"8080\"",
        ),
        ("image.variables.\"a.b\"=x=y", "\"a.b\": String(\"x=y\")"),
        ("image.variables.n=1", "\"n\": Integer(1)"),
    ] {
        let found = layers("", &[], &[set]).map(|layers| Config::of(&layers));
        let found = format!("{:?}", found.unwrap());
        assert!(found.contains(want), "{set}: {found}");
    }
    for (variable, want) in [
        ("BAKE__SOURCE_CIDRS=[\"10.0.0.0/8\"]", "10.0.0.0/8"),
        ("BAKE__GATE__TIMEOUT_SECONDS=77", "timeout_seconds: 77"),
        ("SERVICES__ORDER_API__UNIT=o.service", "Some(\"o.service\")"),
        (
            "SERVICES__ORDER_API__ENVIRONMENT__ORDERS_STORE=file:///b",
            "{\"ORDERS_STORE\": \"file:///b\"}",
        ),
        (
            "SERVICES__ORDER_API__ENVIRONMENT__ORDERS_PORT=80",
            "\"ORDERS_PORT\": \"80\"",
        ),
        ("BAKE__REGION=eu-north-1\n[x]", "eu-north-1\\n[x]"),
    ] {
        let found = format!("{:?}", config("", &[variable], &[]));
        assert!(found.contains(want), "{variable}: {found}");
    }
}

#[test]
fn every_refusal_names_the_layer_that_is_wrong() {
    for (over, variables, set, want) in [
        (
            "[bake]\nregoin = \"x\"\n",
            &[][..],
            &[][..],
            "prod.toml:2: unknown field `regoin`",
        ),
        (
            "[bake]\nregoin = \"x\"\n",
            &[],
            &[],
            "did you mean `region`?",
        ),
        ("\n\nbad", &[], &[], "prod.toml:3: "),
        (
            "",
            &["BAKE__INSTANCE_TYP=x"],
            &[],
            "IMAGEBUILDER_BAKE__INSTANCE_TYP: unknown field `instance_typ`",
        ),
        (
            "",
            &["BAKE__INSTANCE_TYP=x"],
            &[],
            "did you mean `instance_type`?",
        ),
        ("", &["BKE__REGION=x"], &[], "did you mean `bake`?"),
        ("", &["BAKE__=x"], &[], "IMAGEBUILDER_BAKE__ names no key"),
        (
            "",
            &[],
            &["bake.instance_typ=x"],
            "--set bake.instance_typ: unknown field `instance_typ`",
        ),
        ("", &[], &["bak.region=x"], "did you mean `bake`?"),
        (
            "[bake]\n\ninstance_type = 3\n",
            &[],
            &[],
            "prod.toml:3: invalid type: integer `3`, expected a string (it replaces the value at base.toml:9)",
        ),
        (
            "",
            &[],
            &["bake.timeout_seconds=soon"],
            "--set bake.timeout_seconds: invalid type: string \"soon\", expected u32",
        ),
        (
            "bake = \"x\"\n",
            &[],
            &["image.agent=x"],
            "prod.toml:1: `bake` is a string, but a table at base.toml:8\n--set image.agent: `image.agent` is a string, but a table at base.toml:6",
        ),
        (
            "",
            &["BAKE__SOURCE_CIDRS=[10.0.0.0/8]"],
            &[],
            "IMAGEBUILDER_BAKE__SOURCE_CIDRS: `[10.0.0.0/8]` is not a TOML value",
        ),
        (
            "[bake]\nencrypt = true\n",
            &[],
            &[],
            "base.toml:10: [bake] share needs kms_key",
        ),
        (
            "[image.agent.gate]\npasses = 0\n",
            &[],
            &["bake.ssh_port=0"],
            "prod.toml:2: [image.agent.gate] passes is 0; it must be 1 to 1000\n--set bake.ssh_port: [bake] ssh_port is 0",
        ),
        (
            "[services.order-api]\nversion_url = \"x\"\n",
            &[],
            &[],
            "prod.toml:2: [services.order-api] version_url `x` is not",
        ),
        (
            "[bake.gate]\ntimeout_seconds = 0\n",
            &[],
            &[],
            "prod.toml:2: [bake] gate.timeout_seconds is 0",
        ),
    ] {
        let message = refusal(over, variables, set);
        assert!(message.contains(want), "{message}\nmisses {want}");
    }
}

#[test]
fn an_overlay_may_differ_by_architecture() {
    let over = "[image]\narch = [\"x86_64\", \"arm64\"]\n[arch.arm64.bake]\ninstance_type = \"c7g.large\"\n";
    let layers = layers(over, &[], &["arch.arm64.image.agent.binary=aarch64/agent"]).unwrap();
    let configs = Config::of(&layers).unwrap();
    let types: Vec<&str> = configs.iter().map(Config::instance_type).collect();
    assert_eq!(types, ["t3.small", "c7g.large"]);
    assert_eq!(
        configs[1].image.agent.binary,
        PathBuf::from("aarch64/agent")
    );
    let message = refusal(&format!("{over}ssh_prot = 1\n"), &[], &[]);
    assert!(
        message.starts_with("prod.toml:5: unknown field `ssh_prot`"),
        "{message}"
    );
    let message = refusal(&format!("{over}ssh_port = 0\n"), &[], &[]);
    assert_eq!(message, "prod.toml:5: for arm64: [bake] ssh_port is 0");
}

#[test]
fn a_set_that_cannot_be_read_is_refused_at_once() {
    for (text, want) in [
        ("bake.region", "there is no `=`"),
        ("=x", "`` is not a dotted key"),
        ("a b=x", "`a b` is not a dotted key"),
        ("image.payload[0].source=x", "replace an array as a whole"),
        ("bake.share=[1", "`[1` is not a TOML value"),
    ] {
        let why = text.parse::<Argument>().unwrap_err();
        assert!(why.contains(want), "{text}: {why}");
    }
}

#[test]
fn other_variables_are_left_alone() {
    let environment = |names: &[&str]| -> Vec<(String, String)> {
        names
            .iter()
            .map(|name| ((*name).to_owned(), "x".to_owned()))
            .collect()
    };
    // Ours that mean something else: the log, the agent's, what a smoke test is given.
    let others = environment(&[
        "IMAGEBUILDER_LOG",
        "IMAGEBUILDER_AGENT_LOG",
        "IMAGEBUILDER_UPDATE_ROOT",
        "IMAGEBUILDER_IMAGE",
        "IMAGEBUILDER_GROUP",
        "IMAGEBUILDER_STATE",
        "PATH",
    ]);
    assert_eq!(arguments::variables(&others).unwrap(), []);
    assert_eq!(Layers::ignored(&others), [""; 0]);
    let near = environment(&["IMAGEBUILDER_BAKE_INSTANCE_TYPE"]);
    assert_eq!(arguments::variables(&near).unwrap(), []);
    assert_eq!(
        Layers::ignored(&near),
        [
            "IMAGEBUILDER_BAKE_INSTANCE_TYPE is not read: IMAGEBUILDER_BAKE__INSTANCE_TYPE, with two underscores, sets a key of the configuration"
        ]
    );
}

#[test]
fn the_tables_of_variables_are_those_of_the_type() {
    let error = toml::from_str::<Config>("\"?\" = 0").unwrap_err();
    let known: Vec<&str> = error.message().split('`').skip(3).step_by(2).collect();
    let mut ours = arguments::TABLES.to_vec();
    let mut known_sorted = known.clone();
    ours.sort_unstable();
    known_sorted.sort_unstable();
    assert_eq!(ours, known_sorted);
}

#[test]
fn the_printed_defaults_are_the_defaults() {
    let channel = "[channel]\nrepository = \"channel\"\n[fleet]\ngroup = \"shop\"\n";
    let of = |files: Vec<(PathBuf, String)>| {
        let layers = Layers::of(files, &Given::default()).unwrap();
        format!("{:?}", Config::of(&layers).unwrap())
    };
    let base = ("base.toml".into(), format!("{BASE}{channel}"));
    let written = of(vec![
        ("defaults.toml".into(), DEFAULTS.to_owned()),
        base.clone(),
    ]);
    assert_eq!(written, of(vec![base]));
}

/// Keys that have no default, or one that depends on others; tables and lists of tables are not keys.
const WITHOUT_DEFAULT: [(&str, &[&str]); 12] = [
    (
        "image",
        &[
            "name",
            "template",
            "provision",
            "source",
            "root_volume",
            "volume",
            "boot_mode",
            "imds_hops",
            "imds_network",
            "agent",
            "payload",
            "packages",
            "users",
            "groups",
            "folder",
            "unit",
            "sysctl",
            "script",
            "test",
            "variables",
        ],
    ),
    ("image.source", &["owners", "name", "id", "ssm_parameter"]),
    (
        "image.root_volume",
        &["size_gib", "type", "iops", "throughput"],
    ),
    ("image.packages", &[]),
    ("image.agent", &["binary", "gate", "drain"]),
    ("image.agent.gate", &[]),
    (
        "bake",
        &[
            "region",
            "instance_type",
            "instance_profile",
            "user_data",
            "subnet",
            "vpc",
            "ssh_interface",
            "kms_key",
            "copy",
            "gate",
        ],
    ),
    (
        "bake.gate",
        &["instance_type", "instance_profile", "subnet", "user_data"],
    ),
    (
        "roll",
        &[
            "instance_warmup_seconds",
            "watch_timeout_seconds",
            "verify_timeout_seconds",
        ],
    ),
    (
        "channel",
        &["repository", "url", "ca_file", "keys", "expires", "waves"],
    ),
    ("channel.keys", &["online"]),
    ("channel.expires", &[]),
];

/// The fields of a table, as the type knows them.
fn fields(table: &str) -> Vec<String> {
    let mut value: toml::Table = toml::from_str(BASE).unwrap();
    let mut at = &mut value;
    for part in table.split('.') {
        let next = at.entry(part).or_insert_with(|| toml::Table::new().into());
        at = next.as_table_mut().unwrap();
    }
    at.insert("?".to_owned(), 0.into());
    let error = Config::deserialize(value).unwrap_err();
    let message = error.message();
    assert!(
        message.starts_with("unknown field `?`"),
        "{table}: {message}"
    );
    message
        .split('`')
        .skip(3)
        .step_by(2)
        .map(str::to_owned)
        .collect()
}

#[test]
fn every_key_has_a_printed_default_or_none() {
    let defaults: toml::Table = toml::from_str(DEFAULTS).unwrap();
    for (table, without) in WITHOUT_DEFAULT {
        let mut printed = &defaults;
        for part in table.split('.') {
            printed = printed[part].as_table().unwrap();
        }
        let mut known = fields(table);
        known.retain(|key| !without.contains(&key.as_str()));
        let mut printed: Vec<_> = printed
            .iter()
            .filter(|(_, value)| !value.is_table())
            .map(|(key, _)| key.clone())
            .collect();
        known.sort_unstable();
        printed.sort_unstable();
        assert_eq!(printed, known, "[{table}]");
    }
}

#[test]
fn show_prints_the_origin_of_each_value() {
    let over = "[bake]\nshare = [\"333333333333\"]\n[roll]\npoll_seconds = 9 # slow\n";
    let layers = layers(
        over,
        &[
            "BAKE__INSTANCE_TYPE=c7i.large",
            "SERVICES__ORDER_API__ENVIRONMENT__TOKEN=hunter2",
        ],
        &["image.variables.\"a.b\"=x"],
    )
    .unwrap();
    let shown = layers.effective::<Config>(false).unwrap();
    insta::assert_snapshot!("show", shown.toml());
    let settings = shown.settings();
    let setting = |key: &str| settings.iter().find(|setting| setting.key == key).unwrap();
    let share = setting("bake.share");
    assert_eq!(share.origin.to_string(), "prod.toml:2");
    assert_eq!(share.replaces[0].to_string(), "base.toml:10");
    assert_eq!(
        setting("image.payload[1].dest").origin.to_string(),
        "base.toml:20"
    );
    assert_eq!(setting("roll.healthy_rounds").origin, Place::Default);
    let token = setting("services.order-api.environment.TOKEN");
    assert!(token.masked && token.value.is_null());
    assert!(!shown.toml().contains("hunter2"));
    assert!(
        layers
            .effective::<Config>(true)
            .unwrap()
            .toml()
            .contains("hunter2")
    );
}

/// A text as a user could write it: tables in tables, arrays, and values whose quoting matters.
fn any_value() -> impl Strategy<Value = toml::Value> {
    let leaf = prop_oneof![
        any::<i64>().prop_map(toml::Value::from),
        any::<bool>().prop_map(toml::Value::from),
        "[ -~\t\n\u{7f}ä€]{0,12}".prop_map(toml::Value::from),
    ];
    leaf.prop_recursive(3, 24, 4, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..3).prop_map(toml::Value::from),
            prop::collection::btree_map("[abé. -]{0,3}", inner, 0..4)
                .prop_map(|map| toml::Value::Table(map.into_iter().collect())),
        ]
    })
}

fn any_table() -> impl Strategy<Value = toml::Table> {
    prop::collection::btree_map("[abc]", any_value(), 0..4)
        .prop_map(|map| map.into_iter().collect())
}

fn merged_of(texts: &[&str]) -> (toml::Table, bool) {
    let mut merged = Merged::default();
    for text in texts {
        merge(&mut merged, DeTable::parse(text).unwrap().into_inner());
    }
    let conflicts = !merged.conflicts.is_empty();
    let table = Spanned::new(0..0, merged.table);
    let table = toml::Table::deserialize(toml::Deserializer::from(table)).unwrap();
    (table, conflicts)
}

proptest! {
    #[test]
    fn merging_is_associative(a in any_table(), b in any_table(), c in any_table()) {
        let [a, b, c] = [a, b, c].map(|table| table.to_string());
        let (left, left_conflicts) = merged_of(&[&a, &b]);
        let (right, right_conflicts) = merged_of(&[&b, &c]);
        let (of_left, more_left) = merged_of(&[&left.to_string(), &c]);
        let (of_right, more_right) = merged_of(&[&a, &right.to_string()]);
        // What conflicts is refused, whichever way it is merged.
        prop_assert_eq!(left_conflicts || more_left, right_conflicts || more_right);
        if !(left_conflicts || more_left) {
            prop_assert_eq!(&of_left, &of_right);
            prop_assert_eq!(merged_of(&[&a, &b, &c]).0, of_left);
        }
    }

    #[test]
    fn what_show_prints_is_the_same_configuration(a in any_table(), b in any_table()) {
        let file = |table: toml::Table| {
            let variables = toml::Table::from_iter([("variables".to_owned(), table.into())]);
            toml::Table::from_iter([("image".to_owned(), variables.into())]).to_string()
        };
        let files = vec![
            ("base.toml".into(), BASE.to_owned()),
            ("a.toml".into(), file(a)),
            ("b.toml".into(), file(b)),
        ];
        let layers = Layers::of(files, &Given::default()).unwrap();
        // A table over something else is refused, and then there is nothing to show.
        if let Ok(shown) = layers.effective::<Config>(true) {
            let first = Config::of(&layers).unwrap().remove(0);
            let text = shown.toml();
            let again = Config::parse(&text, "shown.toml");
            let again = again.map_err(|error| TestCaseError::fail(format!("{error}: {text}")))?;
            prop_assert_eq!(format!("{first:?}"), format!("{again:?}"));
        }
    }
}
