//! `imagebuilder-agent status`: prints the daemon's and the updater's status, or JSON.
//!
//! It only reads files of the daemon, the updater and `configure`, any of which may be missing.

mod updates;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use agent_update::status::{self as updater_status, UpdaterStatus};
use agent_update::subscription::Subject;
use anyhow::{Context, Result, bail};
use contract::registry::Verdict;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};
use support::text;

use crate::exit::Exit;
use crate::output;
use crate::status_file::{DaemonStatus, FILE};

/// Longest row, in characters: it may hold several reasons.
const LONGEST_ROW: usize = 4 * text::REASON;

/// How the status is printed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// As a table.
    Screen,
    /// As JSON.
    Json,
}

/// The directories of the files that are read.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// The daemon's.
    pub(crate) daemon: &'a Path,
    /// The updater's.
    pub(crate) updater: &'a Path,
    /// That of `configure`.
    pub(crate) configure: &'a Path,
}

/// Prints the status. The exit code is whether the instance is fit.
pub(crate) fn show(places: Places<'_>, form: Form) -> Result<Exit> {
    let daemon: Option<StatusFile<DaemonStatus>> = read(&places.daemon.join(FILE))?;
    let updater: Option<StatusFile<UpdaterStatus>> =
        read(&places.updater.join(updater_status::FILE))?;
    if daemon.is_none() {
        let path = places.daemon.join(FILE);
        tracing::error!("the agent is not running here: no {}", path.display());
        tracing::error!("hint: systemctl status imagebuilder-agent");
    }
    let fit = daemon.as_ref().map(|daemon| daemon.read.verdict) == Some(Some(Verdict::Fit));
    match form {
        Form::Json => {
            let mut object = daemon.map(|daemon| daemon.raw).unwrap_or_default();
            let update = updater.map_or(Value::Null, |updater| Value::Object(updater.raw));
            object.insert("update".to_owned(), update);
            output::line(&format!("{:#}", Value::Object(object)));
        }
        Form::Screen => {
            let subject = Subject::read(places.configure);
            let mut rows = daemon.map(|daemon| rows(&daemon.read)).unwrap_or_default();
            let updater = updater.map(|updater| updater.read);
            rows.extend(updates::rows(
                updater.as_ref(),
                subject.as_ref(),
                Timestamp::now(),
            ));
            output::line(screen(&rows).trim_end());
        }
    }
    Ok(if fit { Exit::Done } else { Exit::NotFit })
}

/// A status file: as it is, since another version may have more fields, and as this version parses it.
struct StatusFile<T> {
    raw: Map<String, Value>,
    read: T,
}

fn read<T: DeserializeOwned>(path: &Path) -> Result<Option<StatusFile<T>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let invalid = || format!("{} is not a status file", path.display());
    let Value::Object(raw) = serde_json::from_str(&text).with_context(invalid)? else {
        bail!(invalid());
    };
    Ok(Some(StatusFile {
        read: serde_json::from_str(&text).with_context(invalid)?,
        raw,
    }))
}

/// The key and the value of a row.
type Row = (&'static str, String);

fn verdict_name(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Judging) => "judging",
        Some(Verdict::Fit) => "fit",
        Some(Verdict::Unfit) => "unfit",
        Some(Verdict::Resting) => "resting",
        Some(Verdict::Draining) => "draining",
        _ => "none yet",
    }
}

/// The rows of the daemon's status.
fn rows(status: &DaemonStatus) -> Vec<Row> {
    let or_unknown = |text: &str| {
        if text.is_empty() {
            "not known yet".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut rows = vec![
        ("verdict", verdict_name(status.verdict).to_owned()),
        (
            "state",
            format!("{} ({})", status.state, status.waiting_for),
        ),
        ("instance", or_unknown(&status.instance_id)),
        (
            "image",
            format!("{} {}", or_unknown(&status.image), status.image_id)
                .trim_end()
                .to_owned(),
        ),
        (
            "group",
            status.group.clone().unwrap_or_else(|| "none".to_owned()),
        ),
        ("agent", status.agent.clone()),
    ];
    if let Some(host) = &status.host {
        let host = format!(
            "{host}, named by its machine id: no metadata service, group or registry record"
        );
        rows.insert(3, ("host", host));
    }
    if !status.since.is_empty() {
        rows.insert(1, ("since", status.since.clone()));
    }
    if !status.reason.is_empty() {
        rows.insert(1, ("reason", status.reason.clone()));
    }
    for notice in &status.notices {
        rows.push(("notice", notice.clone()));
    }
    for (name, service) in &status.services {
        let health = if service.healthy {
            "healthy"
        } else {
            service.detail.as_str()
        };
        let restarts = match status.restarts.get(name) {
            None | Some(0) => String::new(),
            Some(1) => ", restarted once".to_owned(),
            Some(times) => format!(", restarted {times} times"),
        };
        let row = format!("{name} {} {health}{restarts}", service.version);
        rows.push(("service", row));
    }
    rows
}

fn screen(rows: &[Row]) -> String {
    rows.iter().fold(String::new(), |mut screen, (key, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(screen, "{key:<9} {}", text::line(value, LONGEST_ROW));
        screen
    })
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeMap;

    use contract::registry::Service;

    use super::*;

    #[test]
    fn the_table_has_every_field() {
        let service = Service {
            version: "1.2".into(),
            healthy: false,
            detail: "/gtg answered 503".into(),
        };
        let status = DaemonStatus {
            agent: "0.1.0".into(),
            instance_id: "i-1".into(),
            image_id: "ami-1".into(),
            image: "shop".into(),
            group: Some("shop-fleet".into()),
            state: "ailing".into(),
            verdict: Some(Verdict::Unfit),
            reason: "/gtg answered 503".into(),
            since: "2026-01-01T00:00:00Z".into(),
            waiting_for: "unfit; waiting for 3 passes in a row".into(),
            notices: vec!["rebalance recommended since 2026-01-01T00:00:00Z".into()],
            services: BTreeMap::from([("orders".to_owned(), service)]),
            restarts: BTreeMap::from([("orders".to_owned(), 2)]),
            ..DaemonStatus::default()
        };
        assert_eq!(
            screen(&rows(&status)),
            "verdict   unfit\n\
             reason    /gtg answered 503\n\
             since     2026-01-01T00:00:00Z\n\
             state     ailing (unfit; waiting for 3 passes in a row)\n\
             instance  i-1\n\
             image     shop ami-1\n\
             group     shop-fleet\n\
             agent     0.1.0\n\
             notice    rebalance recommended since 2026-01-01T00:00:00Z\n\
             service   orders 1.2 /gtg answered 503, restarted 2 times\n"
        );
    }

    #[test]
    fn a_machine_without_a_metadata_service_is_shown_as_one() {
        let status = DaemonStatus {
            image: "shop".into(),
            host: Some("workbench".into()),
            ..DaemonStatus::default()
        };
        let screen = screen(&rows(&status));
        let host = "host      workbench, named by its machine id: no metadata service, group or registry record\n\
                    image     shop\ngroup     none\n";
        assert!(screen.contains(host), "{screen}");
    }
}
