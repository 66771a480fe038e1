//! `[identity]`: machines without a metadata service.

use super::*;

const MACHINE: &str = "[identity]\nmachine = true\n";

fn machine(more: &str) -> ImageFiles {
    ImageFiles::with(&format!("{IMAGE}{MACHINE}{more}"))
}

#[test]
fn a_machine_never_asks_for_its_replacement() {
    let settings = machine("").load(None).unwrap();
    assert_eq!(settings.serving.replace_after, None);
    let settings = machine("[serving]\nreplace_after_seconds = 60\n").load(None);
    assert_eq!(settings.unwrap().serving.replace_after, None);
}

#[test]
fn what_needs_the_metadata_service_is_refused_by_name() {
    let group = "arn:aws:elasticloadbalancing:eu-west-3:123456789012:targetgroup/shop/1";
    for (more, keys) in [
        ("[hooks]\nlaunch = \"x\"\n", "hooks.launch"),
        (
            "[hooks]\nlaunch = \"x\"\nterminate = \"y\"\n[serving]\nreplace = true\n",
            "hooks.launch, hooks.terminate, serving.replace",
        ),
        (
            &format!("[serving]\ntarget_groups = [\"{group}\"]\n"),
            "serving.target_groups",
        ),
        (
            "[notices]\ndrain_on_rebalance = true\ndrain_before_seconds = 9\n",
            "notices.drain_on_rebalance, notices.drain_before_seconds",
        ),
        (
            "[metrics]\ncloudwatch_namespace = \"shop/agents\"\n",
            "metrics.cloudwatch_namespace",
        ),
    ] {
        let refusal = machine(more).refusal(None);
        let named = format!("notice or role for {keys}\nhint: ");
        assert!(refusal.contains(&named), "{keys}: {refusal}");
        let on_ec2 = machine(more).drop_in("ec2.toml", "identity.machine = false");
        assert!(on_ec2.load(None).is_ok(), "{keys}");
    }
    let harmless =
        "[serving]\ntarget_groups = []\nreplace = false\n[notices]\ndrain_on_rebalance = false\n";
    assert!(machine(harmless).load(None).is_ok());
}

#[test]
fn user_data_cannot_decide_where_it_comes_from() {
    let data = format!("{USER_DATA_MARK}\n{MACHINE}");
    let refusal = ImageFiles::with(IMAGE).refusal(Some(&data));
    assert!(
        refusal.starts_with("user data: identity.machine: "),
        "{refusal}"
    );
}

/// Also where the settings are refused for another reason: that is reported, and nothing waits for a metadata service.
#[test]
fn the_identity_is_known_before_the_settings_are_valid() {
    for (image, drop_in, expected) in [
        ("", "", false),
        (MACHINE, "", true),
        ("[identity]\nmachine = false", "", false),
        ("[identity]\nmachine = \"yes\"", "", true),
        ("[identity]\nmachin = true", "", false),
        ("unknown = 1\n[identity]\nmachine = true", "", true),
        ("", MACHINE, true),
        (MACHINE, "identity.machine = false", false),
        (MACHINE, "[gate]\npasses = 1", true),
        (MACHINE, "not TOML", true),
    ] {
        let files = ImageFiles::with(image).drop_in("50.toml", drop_in);
        assert_eq!(files.sources().is_machine(), expected, "{image} {drop_in}");
    }
    let none = Sources {
        file: "/nowhere/agent.toml".into(),
        drop_ins: "/nowhere/agent.d".into(),
    };
    assert!(!none.is_machine());
}
