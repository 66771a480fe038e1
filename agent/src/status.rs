//! `imagebuilder-agent status`: the daemon's standing on one screen, or as JSON.

use std::fmt::Write as _;
use std::fs;
use std::io;
use std::path::Path;

use anyhow::{Context, Result};
use contract::registry::Verdict;

use crate::cli::Exit;
use crate::output;
use crate::standing::{FILE, Standing};

/// How the standing is shown.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Form {
    /// For people.
    Screen,
    /// For programs.
    Json,
}

/// Shows the standing and says by the exit code whether the box is fit.
pub(crate) fn show(run_dir: &Path, form: Form) -> Result<Exit> {
    let path = run_dir.join(FILE);
    let text = match fs::read_to_string(&path) {
        Ok(text) => text,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            tracing::error!("the agent is not running here: no {}", path.display());
            tracing::error!("hint: systemctl status imagebuilder-agent");
            return Ok(Exit::NotFit);
        }
        Err(error) => return Err(error).with_context(|| format!("cannot read {}", path.display())),
    };
    let standing: Standing = serde_json::from_str(&text)
        .with_context(|| format!("{} is not a standing", path.display()))?;
    match form {
        Form::Json => output::line(text.trim_end()),
        Form::Screen => output::line(screen(&standing).trim_end()),
    }
    Ok(if standing.verdict == Some(Verdict::Fit) {
        Exit::Done
    } else {
        Exit::NotFit
    })
}

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

fn screen(standing: &Standing) -> String {
    let or_unknown = |text: &str| {
        if text.is_empty() {
            "not known yet".to_owned()
        } else {
            text.to_owned()
        }
    };
    let mut rows = vec![
        ("verdict", word(standing.verdict).to_owned()),
        (
            "state",
            format!("{} ({})", standing.state, standing.waiting_for),
        ),
        ("instance", or_unknown(&standing.instance_id)),
        (
            "image",
            format!("{} {}", or_unknown(&standing.image), standing.image_id),
        ),
        (
            "group",
            standing.group.clone().unwrap_or_else(|| "none".to_owned()),
        ),
        ("agent", standing.agent.clone()),
    ];
    if !standing.since.is_empty() {
        rows.insert(1, ("since", standing.since.clone()));
    }
    if !standing.reason.is_empty() {
        rows.insert(1, ("reason", standing.reason.clone()));
    }
    for notice in &standing.notices {
        rows.push(("notice", notice.clone()));
    }
    for (name, service) in &standing.services {
        let health = if service.healthy {
            "healthy"
        } else {
            service.detail.as_str()
        };
        rows.push(("service", format!("{name} {} {health}", service.version)));
    }
    rows.iter().fold(String::new(), |mut text, (key, value)| {
        // Writing to a string cannot fail.
        let _ = writeln!(
            text,
            "{key:<9} {}",
            value.split_whitespace().collect::<Vec<_>>().join(" ")
        );
        text
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
        let standing = Standing {
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
            ..Standing::default()
        };
        assert_eq!(
            screen(&standing),
            "verdict   unfit\n\
             reason    /gtg answered 503\n\
             since     2026-01-01T00:00:00Z\n\
             state     ailing (unfit; waiting for 3 passes in a row)\n\
             instance  i-1\n\
             image     shop ami-1\n\
             group     shop-fleet\n\
             agent     0.1.0\n\
             notice    rebalance recommended since 2026-01-01T00:00:00Z\n\
             service   orders 1.2 /gtg answered 503\n"
        );
    }
}
