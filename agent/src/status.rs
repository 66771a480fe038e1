//! `imagebuilder-agent status`: the daemon's and the updater's status on one screen, or as JSON.
//!
//! It only reads files that others left, any of which may be missing: the daemon or the updater may never
//! have run.

mod updates;

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result, bail};
use contract::registry::Verdict;
use jiff::Timestamp;
use serde::de::DeserializeOwned;
use serde_json::{Map, Value};

use crate::exit::Exit;
use crate::output;
use crate::status_file::{DaemonStatus, FILE};
use crate::text;
use crate::update::status::{self as updater_status, UpdaterStatus};
use crate::update::subscription::Subject;

/// The longest row of the screen, in characters: several reasons on one.
const LONGEST_ROW: usize = 4 * text::REASON;

/// How the status is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Screen,
    /// For programs.
    Json,
}

/// The directories that others leave their files in.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Places<'a> {
    /// The daemon's.
    pub(crate) daemon: &'a Path,
    /// The updater's.
    pub(crate) updater: &'a Path,
    /// That of `configure`.
    pub(crate) configure: &'a Path,
}

/// Shows the status and says by the exit code whether the instance is fit.
pub(crate) fn show(places: Places<'_>, form: Form) -> Result<Exit> {
    let daemon: Option<Left<DaemonStatus>> = left(&places.daemon.join(FILE))?;
    let updater: Option<Left<UpdaterStatus>> = left(&places.updater.join(updater_status::FILE))?;
    if daemon.is_none() {
        let path = places.daemon.join(FILE);
        tracing::error!("the agent is not running here: no {}", path.display());
        tracing::error!("hint: systemctl status imagebuilder-agent");
    }
    let fit = daemon.as_ref().map(|daemon| daemon.read.verdict) == Some(Some(Verdict::Fit));
    match form {
        Form::Json => {
            let mut told = daemon.map(|daemon| daemon.raw).unwrap_or_default();
            let update = updater.map_or(Value::Null, |updater| Value::Object(updater.raw));
            told.insert("update".to_owned(), update);
            output::line(&format!("{:#}", Value::Object(told)));
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

/// A file that was left: as it is, since a program may know more of it than we do, and as we read it.
struct Left<T> {
    raw: Map<String, Value>,
    read: T,
}

fn left<T: DeserializeOwned>(path: &Path) -> Result<Option<Left<T>>> {
    let text = match fs::read_to_string(path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let read = || format!("{} is not a status", path.display());
    let Value::Object(raw) = serde_json::from_str(&text).with_context(read)? else {
        bail!(read());
    };
    Ok(Some(Left {
        read: serde_json::from_str(&text).with_context(read)?,
        raw,
    }))
}

/// What is on the left of a line, and on the right.
type Row = (&'static str, String);

fn word(verdict: Option<Verdict>) -> &'static str {
    match verdict {
        Some(Verdict::Judging) => "judging",
        Some(Verdict::Fit) => "fit",
        Some(Verdict::Unfit) => "unfit",
        Some(Verdict::Resting) => "resting",
        Some(Verdict::Draining) => "draining",
        _ => "none yet",
    }
}

/// What the daemon tells.
fn rows(status: &DaemonStatus) -> Vec<Row> {
    let or_unknown = |text: &str| {
        if text.is_empty() {
            "not known yet".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut rows = vec![
        ("verdict", word(status.verdict).to_owned()),
        (
            "state",
            format!("{} ({})", status.state, status.waiting_for),
        ),
        ("instance", or_unknown(&status.instance_id)),
        (
            "image",
            format!("{} {}", or_unknown(&status.image), status.image_id),
        ),
        (
            "group",
            status.group.clone().unwrap_or_else(|| "none".to_owned()),
        ),
        ("agent", status.agent.clone()),
    ];
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
        let told = format!("{name} {} {health}{restarts}", service.version);
        rows.push(("service", told));
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
    fn one_screen_tells_it_all() {
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
}
