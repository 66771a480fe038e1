//! Startup, readiness and liveness, and the services' order.

use std::path::Path;

use super::*;

/// Passes while the file exists.
fn exists(path: &Path) -> CheckKind {
    CheckKind::Exec(vec![
        "/usr/bin/test".into(),
        "-e".into(),
        path.display().to_string(),
    ])
}

fn named(name: &str, after: &[&str], checks: Vec<Check>) -> Service {
    Service {
        name: ServiceName::parse(name).unwrap(),
        unit: format!("{name}.service"),
        checks,
        after: after.iter().map(|&name| name.to_owned()).collect(),
        version: None,
        environment: BTreeMap::new(),
    }
}

/// What each service reports, and which are dead.
async fn report(checks: &Checks, services: &[Service]) -> (Vec<String>, Vec<String>) {
    let checked = checks.round(services.to_vec().into(), PATIENCE).await;
    let details = checked.round.values().map(|service| service.detail.clone());
    (details.collect(), checked.dead.into_iter().collect())
}

#[tokio::test]
async fn startup_passes_once_before_the_others_count() {
    let dir = tempfile::tempdir().unwrap();
    let at = |name: &str| dir.path().join(name);
    let service = named(
        "db",
        &[],
        vec![
            check("live", exists(&at("live")), &[Purpose::Liveness]),
            check("ready", exists(&at("ready")), &[Purpose::Readiness]),
            check("up", exists(&at("up")), &[Purpose::Startup]),
        ],
    );
    let (checks, services) = (Checks::default(), [service]);
    let failed = "/usr/bin/test exited with 1";
    let starting = vec![format!("db.service: starting: check up: {failed}")];
    let dead = vec!["db".to_owned()];
    assert_eq!(report(&checks, &services).await, (starting.clone(), vec![]));
    std::fs::write(at("up"), "").unwrap();
    let unready = vec![format!("db.service: check ready: {failed}")];
    assert_eq!(
        report(&checks, &services).await,
        (unready.clone(), dead.clone())
    );
    // Startup is not checked again, until the service is restarted.
    std::fs::remove_file(at("up")).unwrap();
    std::fs::write(at("live"), "").unwrap();
    assert_eq!(report(&checks, &services).await, (unready, vec![]));
    std::fs::write(at("ready"), "").unwrap();
    std::fs::remove_file(at("live")).unwrap();
    assert_eq!(
        report(&checks, &services).await,
        (vec![String::new()], dead)
    );
    checks.restarting("db");
    assert_eq!(report(&checks, &services).await, (starting, vec![]));
    checks.started("db");
    std::fs::write(at("live"), "").unwrap();
    assert_eq!(
        report(&checks, &services).await,
        (vec![String::new()], vec![])
    );
}

#[tokio::test]
async fn a_service_waits_for_those_before_it() {
    let dir = tempfile::tempdir().unwrap();
    let up = dir.path().join("up");
    let both = [Purpose::Readiness, Purpose::Liveness];
    let pass = || {
        vec![check(
            "ok",
            CheckKind::Exec(vec!["/bin/true".into()]),
            &both,
        )]
    };
    let services = [
        named("app", &["db"], pass()),
        named("db", &[], vec![check("up", exists(&up), &both)]),
        named("web", &["app"], pass()),
    ];
    let checks = Checks::default();
    let waiting = [
        "app.service: waits for db",
        "db.service: check up: /usr/bin/test exited with 1",
        "web.service: waits for app",
    ];
    let (details, dead) = report(&checks, &services).await;
    assert_eq!(
        (details, dead),
        (waiting.map(str::to_owned).to_vec(), vec!["db".to_owned()])
    );
    std::fs::write(&up, "").unwrap();
    assert_eq!(report(&checks, &services).await.0, ["", "", ""]);
}

#[tokio::test]
async fn a_check_has_its_own_limit() {
    let mut slow = check(
        "slow",
        CheckKind::Exec(vec!["/bin/sleep".into(), "1000".into()]),
        &[Purpose::Readiness],
    );
    slow.timeout = Some(Duration::from_secs(1));
    let (details, dead) = report(&Checks::default(), &[named("db", &[], vec![slow])]).await;
    assert_eq!(details, ["db.service: check slow: no answer within 1.0 s"]);
    assert!(dead.is_empty());
}
