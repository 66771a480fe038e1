//! Instances in odd places: in no group, in a warm pool, with a second network interface, behind a hop too many.

use super::*;

#[tokio::test]
async fn an_instance_in_no_group_is_gated_and_recorded() {
    let house = Box::new("").await;
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let reported = line(&mut agent).await;
    assert!(reports_fit(&reported), "{reported}");
    assert!(house.until_verdict(Verdict::Fit).await.services["orders"].healthy);
    let shown = house.until_shown(|shown| shown["state"] == "serving").await;
    assert_eq!(shown["waiting_for"], "serving, in no group");
    assert_eq!(shown["group"], serde_json::Value::Null);
    let (_, screen, _) = house.output(&["status"]).await;
    assert!(screen.contains("\ngroup     none\n"), "{screen}");
    stop(agent).await;
    assert!(house.cloud.facts().calls.is_empty());
}

/// From the warm pool straight to the end: it never serves, and both hooks are answered.
#[tokio::test]
async fn a_warm_pool_ends_its_instances_through_the_hook() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("Warmed:Running");
        facts.lifecycle = Some("Warmed:Pending:Wait");
    });
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    assert_eq!(
        line(&mut agent).await,
        "imagebuilder-agent: resting i-0abc: in the warm pool (Warmed:Running)\n"
    );
    house.cloud.until(|facts| facts.calls.len() == 1).await;
    house.until_verdict(Verdict::Resting).await;
    house.cloud.change(|facts| {
        facts.target = Some("Warmed:Terminated");
        facts.lifecycle = Some("Warmed:Terminating:Wait");
    });
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("Terminating:Proceed"))
        .await;
    assert_eq!(
        facts.calls,
        [
            "CompleteLifecycleAction in CONTINUE",
            "DeleteParameter",
            "CompleteLifecycleAction out CONTINUE"
        ]
    );
    kill(&agent);
    let mut reported = String::new();
    let stdout = agent.stdout.as_mut().unwrap();
    stdout.read_to_string(&mut reported).await.unwrap();
    assert!(!reported.contains(": fit "), "{reported}");
}

/// The ids are those of the instance, not of an interface: the agent reads nothing below `network/`, so that neither
/// their number nor their order matters.
#[tokio::test]
async fn a_second_network_interface_changes_nothing() {
    let house = Box::new("").await;
    house.cloud.change(|facts| {
        facts.target = Some("InService");
        facts.lifecycle = Some("Pending:Wait");
        // The second one comes first: IMDS sorts them by address.
        let (second, first) = ("02:00:00:00:00:01", "06:00:00:00:00:02");
        let macs = "network/interfaces/macs/";
        facts.leaves.insert(macs, format!("{second}/\n{first}/\n"));
        facts.leaves.insert("mac", first.to_owned());
        for (leaf, number) in [
            (
                "network/interfaces/macs/02:00:00:00:00:01/device-number",
                "1",
            ),
            (
                "network/interfaces/macs/06:00:00:00:00:02/device-number",
                "0",
            ),
        ] {
            facts.leaves.insert(leaf, number.to_owned());
        }
    });
    let agent = house.agent(&["run"]).spawn().unwrap();
    house.until_verdict(Verdict::Fit).await;
    let facts = house
        .cloud
        .until(|facts| facts.lifecycle == Some("InService"))
        .await;
    assert_eq!(facts.calls, ["CompleteLifecycleAction in CONTINUE"]);
    let read = &facts.metadata_read;
    assert!(read.contains("meta-data/instance-id"), "{read:?}");
    let interface = |path: &String| path.contains("network") || path.contains("mac");
    assert!(!read.iter().any(interface), "{read:?}");
    stop(agent).await;
}

#[tokio::test]
async fn a_lost_token_names_the_hop_limit() {
    let house = Box::new("").await;
    house.cloud.change(|facts| facts.token_lost = true);
    let mut agent = house.agent(&["run"]).spawn().unwrap();
    let reported = line(&mut agent).await;
    assert!(
        reported.starts_with("imagebuilder-agent: unidentified: the metadata service accepts"),
        "{reported}"
    );
    let named = "HttpPutResponseHopLimit must be 2 or more";
    assert!(reported.contains(named), "{reported}");
    house
        .until_shown(|shown| {
            shown["waiting_for"]
                .as_str()
                .unwrap_or_default()
                .contains(named)
        })
        .await;
    let (_, screen, _) = house.output(&["status"]).await;
    assert!(screen.contains(named), "{screen}");
    // It waits, and goes on when the limit is raised.
    house.cloud.change(|facts| facts.token_lost = false);
    house.until_verdict(Verdict::Fit).await;
    stop(agent).await;
}
