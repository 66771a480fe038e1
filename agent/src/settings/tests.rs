//! Settings: what is merged, what is refused and with which messages.

mod identity;
mod proxy;
mod update;

use super::*;

const IMAGE: &str = r#"
image = "shop"
[gate]
passes = 2
[services.orders]
unit = "orders.service"
health_url = "http://127.0.0.1:8080/gtg"
[services.orders.environment]
ORDERS_STORE = "file:///var/lib/orders"
ORDERS_LISTEN = "0.0.0.0:8080"
"#;

struct ImageFiles {
    dir: tempfile::TempDir,
}

impl ImageFiles {
    fn with(image: &str) -> Self {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("agent.toml"), image).unwrap();
        fs::create_dir(dir.path().join("agent.d")).unwrap();
        Self { dir }
    }

    fn drop_in(self, name: &str, text: &str) -> Self {
        fs::write(self.dir.path().join("agent.d").join(name), text).unwrap();
        self
    }

    fn sources(&self) -> Sources {
        Sources {
            file: self.dir.path().join("agent.toml"),
            drop_ins: self.dir.path().join("agent.d"),
        }
    }

    fn load(&self, user_data: Option<&str>) -> Result<Settings> {
        self.sources().load(user_data)
    }

    fn refusal(&self, user_data: Option<&str>) -> String {
        let error = self.load(user_data).unwrap_err();
        assert!(error.is::<Refused>(), "{error:#}");
        error
            .to_string()
            .replace(&format!("{}/", self.dir.path().display()), "")
    }
}

#[test]
fn the_image_alone_is_enough_and_the_rest_has_defaults() {
    let settings = ImageFiles::with(IMAGE).load(None).unwrap();
    assert_eq!(settings.image.as_str(), "shop");
    assert_eq!(settings.gate.passes, 2);
    assert_eq!(settings.gate.interval, Duration::from_secs(2));
    assert_eq!(settings.gate.deadline, Duration::from_secs(120));
    assert_eq!(settings.drain.settle, Duration::from_secs(5));
    assert_eq!(settings.notices, NoticeTerms::default());
    assert_eq!(
        settings.serving.replace_after,
        Some(Duration::from_secs(180))
    );
    assert!(settings.serving.restart);
    assert_eq!(settings.serving.fleet_guard_percent, 20);
    let window = (
        settings.serving.window,
        settings.serving.window_failure_percent,
    );
    assert_eq!(window, (20, 40));
}

/// The golden file of the template that imagebuilder renders, with every key of a check.
#[test]
fn what_imagebuilder_renders_is_read_with_every_key() {
    let path =
        "../imagebuilder/src/snapshots/imagebuilder__template__tests__the_agents_settings.snap";
    let golden = Path::new(env!("CARGO_MANIFEST_DIR")).join(path);
    let golden = fs::read_to_string(golden).unwrap();
    let text = golden.splitn(3, "---\n").nth(2).unwrap();
    // The golden file shows how a quote is rendered, which no channel's address has.
    let text = text.replace("/a \"b\"", "/agent");
    let settings = ImageFiles::with(&text).load(None).unwrap();
    let kinds = |name: &str| -> Vec<String> {
        let mut services = settings.services.iter();
        let service = services
            .find(|service| service.name.as_str() == name)
            .unwrap();
        let checks = service.checks.iter();
        checks
            .map(|check| format!("{} {:?}", check.name, check.kind))
            .collect()
    };
    let db = kinds("db");
    assert!(db[0].contains("/usr/bin/mysqladmin"), "{db:?}");
    assert_eq!(
        (db.len(), kinds("web").len(), kinds("mail").len()),
        (4, 2, 1)
    );
}

#[test]
fn user_data_overrides_drop_ins_and_the_image_by_key() {
    let settings = ImageFiles::with(IMAGE)
        .drop_in("20.toml", "[gate]\npasses = 5\ninterval_seconds = 4")
        .drop_in("10.toml", "[gate]\npasses = 4")
        .drop_in("notes.txt", "not = [toml")
        .load(Some(
            "#imagebuilder-agent\n[gate]\ninterval_seconds = 7\n\
             [services.orders.environment]\nORDERS_STORE = \"s3://b/p\"\n[serving]\nreplace = false",
        ))
        .unwrap();
    assert_eq!(settings.gate.passes, 5);
    assert_eq!(settings.gate.interval, Duration::from_secs(7));
    assert_eq!(settings.serving.replace_after, None);
    let environment = &settings.services[0].environment;
    assert_eq!(environment["ORDERS_STORE"], "s3://b/p");
    assert_eq!(environment["ORDERS_LISTEN"], "0.0.0.0:8080");
}

#[test]
fn user_data_of_others_is_left_alone() {
    let image = ImageFiles::with(IMAGE);
    for foreign in [
        "#cloud-config\n[gate]\npasses = 9",
        "#!/bin/sh\nrm",
        "",
        "# imagebuilder-agent",
    ] {
        assert_eq!(
            image.load(Some(foreign)).unwrap().gate.passes,
            2,
            "{foreign:?}"
        );
    }
    assert_eq!(
        image
            .load(Some("#imagebuilder-agent \r\ngate.passes = 9"))
            .unwrap()
            .gate
            .passes,
        9
    );
}

#[test]
fn an_unknown_key_is_refused_with_place_and_suggestion() {
    let image = ImageFiles::with(IMAGE).drop_in("10.toml", "[gate]\n\npases = 4");
    assert_eq!(
        image.refusal(None),
        "agent.d/10.toml:3:1: unknown key `pases`\nhint: did you mean `passes`?"
    );
    let image = ImageFiles::with(IMAGE);
    assert_eq!(
        image.refusal(Some("#imagebuilder-agent\n[service.orders]\n")),
        "user data:2:2: unknown key `service`\nhint: did you mean `services`?"
    );
    assert_eq!(
        image.refusal(Some("#imagebuilder-agent\n[drain]\nzzz = 1")),
        "user data:3:1: unknown key `zzz`\nhint: known keys: url, command, interval_seconds, \
         timeout_seconds, settle_seconds, deadline_seconds, on_failure"
    );
}

#[test]
fn a_refusal_never_repeats_a_value_of_user_data() {
    let image = ImageFiles::with(IMAGE);
    for (fault, place) in [
        ("gate.passes = \"hunter2\"", "user data:2:15: expected u32"),
        ("services.orders.environment.A = \"hunter2", "user data:2:"),
        (
            "services.orders.health_url = \"http://u:hunter2@127.0.0.1/\"",
            "services.orders.health_url: ",
        ),
        (
            "services.orders.environment.A = \"hunter2\\n\"",
            "services.orders.environment: ",
        ),
        ("hunter2hunter2", "user data:2:"),
    ] {
        let refusal = image.refusal(Some(&format!("{USER_DATA_MARK}\n{fault}")));
        assert!(refusal.starts_with(place), "{fault}: {refusal}");
        assert!(!refusal.contains("hunter2"), "{fault}: {refusal}");
    }
}

#[test]
fn what_makes_no_sense_is_refused() {
    for (fault, words) in [
        ("image = \"a b\"", "image: not a name"),
        (
            "[gate]\npasses = 0",
            "gate.passes: 0 is not between 1 and 1000",
        ),
        (
            "[gate]\npasses = 5\ninterval_seconds = 30\ndeadline_seconds = 120",
            "gate.deadline_seconds: 5 passes 30 s apart do not fit into 120 s",
        ),
        (
            "[services.orders]\nhealth_url = \"https://x/\"",
            "services.orders.health_url: not an address",
        ),
        (
            "[services.\"../x\"]\nhealth_url = \"http://x/\"",
            "services: not a name",
        ),
        (
            "[drain]\nsettle_seconds = 9\ndeadline_seconds = 8",
            "drain.deadline_seconds: 8 s end before",
        ),
        (
            "[drain]\nurl = \"http://shop.example/busy\"\ntimeout_seconds = 0",
            "drain.url: not a plain HTTP address of this instance\ndrain.timeout_seconds: 0 is not between 1 and 60\n\
             hint: use one on loopback, such as http://127.0.0.1:8080/busy",
        ),
        (
            "[drain]\nurl = \"http://127.0.0.1/\"\ncommand = [\"/bin/true\"]",
            "drain.command: set beside url\nhint: remove one of the two",
        ),
        (
            "[drain]\nsettle_second = 1",
            "agent.d/x.toml:2:1: unknown key `settle_second`\nhint: did you mean `settle_seconds`?",
        ),
        (
            "[serving]\ntarget_groups = [\"shop\"]",
            "serving.target_groups: not the ARN",
        ),
        (
            "[drain]\non_failure = \"explode\"",
            "agent.d/x.toml:2:14: expected `continue` or `abandon`",
        ),
        (
            "[metrics]\nlisten = \"0.0.0.0:9150\"",
            "metrics.listen: not an address on this instance",
        ),
        (
            "[metrics]\nlisten = \"9150\"",
            "metrics.listen: not an address on this instance",
        ),
        (
            "[metrics]\ncloudwatch_namespace = \"AWS/EC2\"",
            "metrics.cloudwatch_namespace: not a namespace",
        ),
        (
            "[metrics]\ncloudwatch_namespace = \"a b\"",
            "metrics.cloudwatch_namespace: not a namespace",
        ),
        (
            "[services.orders.environment]\n\"A-B\" = \"\"",
            "services.orders.environment: `A-B` is not",
        ),
    ] {
        let refusal = ImageFiles::with(IMAGE)
            .drop_in("x.toml", fault)
            .refusal(None);
        assert!(refusal.starts_with(words), "{fault}: {refusal}");
    }
    assert!(
        ImageFiles::with("image = \"shop\"")
            .refusal(None)
            .starts_with("services: none configured")
    );
    assert!(
        ImageFiles::with("")
            .refusal(None)
            .starts_with("image: missing")
    );
}

#[test]
fn metrics_go_nowhere_unless_asked_for() {
    let settings = ImageFiles::with(IMAGE).load(None).unwrap();
    assert_eq!(settings.metrics, Metrics::default());
    let asked = "[metrics]\nlisten = \"[::1]:9150\"\ncloudwatch_namespace = \"shop/agents\"";
    let settings = ImageFiles::with(IMAGE).drop_in("m.toml", asked).load(None);
    let metrics = settings.unwrap().metrics;
    assert_eq!(metrics.listen.unwrap().to_string(), "[::1]:9150");
    assert_eq!(metrics.cloudwatch_namespace.unwrap(), "shop/agents");
}

#[test]
fn the_image_is_known_by_name_although_user_data_is_refused() {
    let image = ImageFiles::with(IMAGE);
    assert!(image.load(Some("#imagebuilder-agent\nnonsense")).is_err());
    assert_eq!(image.sources().image_name().unwrap().as_str(), "shop");
}

#[test]
fn only_the_images_own_units_may_be_restarted() {
    let image =
        ImageFiles::with(IMAGE).drop_in("10.toml", "[services.web]\nhealth_url = \"http://x/\"");
    let user_data = "#imagebuilder-agent\n[services.orders]\nunit = \"sshd.service\"";
    assert_eq!(
        image.load(Some(user_data)).unwrap().services[0].unit,
        "sshd.service"
    );
    let units = image.sources().image_units().unwrap();
    assert_eq!(
        units.into_iter().collect::<Vec<_>>(),
        ["orders.service", "web.service"]
    );
}
