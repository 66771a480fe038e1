//! A machine without a metadata service: judged, and nobody is asked.

use super::*;

#[tokio::test]
async fn a_machine_is_judged_without_any_call() {
    let house =
        Box::new("[identity]\nmachine = true\n[serving]\npasses = 1\ninterval_seconds = 1\n").await;
    let (code, _, log) = house.output(&["configure"]).await;
    assert_eq!(code, Some(0), "{log}");
    let configured: serde_json::Value = serde_json::from_str(&house.file("update.json")).unwrap();
    let name = configured["instance_id"].as_str().unwrap();
    assert!(name.starts_with("machine-"), "{name}");
    let machine_id = fs::read_to_string("/etc/machine-id").unwrap_or_default();
    assert!(machine_id.trim().is_empty() || !name.replace('-', "").contains(machine_id.trim()));

    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let reported = line(&mut agent).await;
    let fit = format!("imagebuilder-agent: fit {name}: orders");
    assert!(reported.starts_with(&fit), "{reported}");
    let shown = house.until_shown(|shown| shown["state"] == "serving").await;
    assert_eq!(shown["waiting_for"], "serving, in no group");
    assert_eq!(
        (&shown["instance_id"], &shown["recorded"]),
        (&name.into(), &false.into())
    );
    let (code, screen, _) = house.output(&["status"]).await;
    assert_eq!(code, Some(0), "{screen}");
    assert!(
        screen.contains("named by its machine id: no metadata service, group or registry record"),
        "{screen}"
    );
    house.cloud.change(|facts| facts.healthy = false);
    house.until_shown(|shown| shown["verdict"] == "unfit").await;
    let (code, log) = stop(agent).await;
    assert_eq!(code, Some(0), "{log}");
    assert_eq!(house.cloud.facts().aws_asked, 0);
}

#[tokio::test]
async fn a_machine_with_settings_for_ec2_is_unfit_at_once() {
    let house = Box::new("[identity]\nmachine = true\n[hooks]\nlaunch = \"in\"\n").await;
    let agent = house.agent(&["run"]).spawn().unwrap();
    let shown = house.until_shown(|shown| shown["verdict"] == "unfit").await;
    let reason = shown["reason"].as_str().unwrap();
    assert!(
        reason.starts_with("settings refused: identity.machine: "),
        "{reason}"
    );
    assert!(reason.contains("hooks.launch"), "{reason}");
    stop(agent).await;
    assert_eq!(house.cloud.facts().aws_asked, 0);
}
