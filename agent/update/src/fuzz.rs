//! Fuzz targets for the files that the updater reads back, and for what systemd prints.
//!
//! As ordinary tests they take a second each, on mutated valid texts and on random bytes. As
//! `cargo bolero test fuzz::update_json` the same targets are driven by libFuzzer, AFL or honggfuzz; what
//! those find goes into `src/__fuzz__/` and is tried by every test run from then on. The channel's metadata has
//! targets in `tests/channel/fuzz.rs`.
//!
//! The property of all: no panic, no hang, nothing that grows beyond what came in.

use bolero::check;
use serde::Serialize;
use serde::de::DeserializeOwned;
use test_support::fuzz::{Mutation, mutated};

use crate::state::{Overrides, State};
use crate::subscription::{Subject, Window};
use crate::systemd;

/// Calls a parser with mutated texts.
fn with_text(seeds: &[&str], parse: impl Fn(&str) + std::panic::RefUnwindSafe) {
    with_bytes(seeds, |bytes| parse(&String::from_utf8_lossy(bytes)));
}

/// Calls a parser with mutated bytes, after the seeds as they are.
fn with_bytes(seeds: &[&str], parse: impl Fn(&[u8]) + std::panic::RefUnwindSafe) {
    for seed in seeds {
        parse(seed.as_bytes());
    }
    check!()
        .with_type::<Mutation>()
        .for_each(|mutation| parse(&mutated(seeds, mutation)));
}

/// What was understood is written and understood again, the same.
fn goes_round<T: DeserializeOwned + Serialize + PartialEq + std::fmt::Debug>(read: &T) {
    let text = serde_json::to_string(read).expect("plain data");
    let again: T = serde_json::from_str(&text).expect(&text);
    assert_eq!(*read, again);
}

const UPDATE: &str = r#"{"instance_id": "i-0abc", "channel": "stable",
    "url": "https://updates.example.com/agent", "ca_file": null, "plain_http": false,
    "soak_seconds": 120, "windows": ["Mon-Fri 09:00-16:00", "Sat 22:00-02:00"]}"#;

#[test]
fn update_json() {
    with_text(&[UPDATE, r#"{"instance_id":"i-1"}"#], |text| {
        if let Ok(subject) = Subject::parse(text) {
            let written = subject.to_json().unwrap();
            assert_eq!(Subject::parse(&written).unwrap(), subject);
        }
    });
}

#[test]
fn windows() {
    with_text(
        &["Mon-Fri 09:00-16:00", "22:00-02:00", "Sun 00:00-24:00"],
        |text| {
            if let Ok(window) = text.parse::<Window>() {
                assert!(window.to_string().parse::<Window>().is_ok());
            }
        },
    );
}

#[test]
fn state_and_overrides() {
    let digest = "0123456789abcdef".repeat(4);
    let state = r#"{"instance_id": "i-0abc", "floor": "1.0.0",
        "skipped": [{"build": {"version": "1.2.0", "digest": "DIGEST"}, "reason": "crashed",
                     "at": "2026-11-21T09:00:00Z"}],
        "strikes": {"DIGEST": 1}, "updated_at": "2026-11-21T09:00:00Z"}"#
        .replace("DIGEST", &digest);
    let orders =
        r#"{"hold": {"until": "2026-11-21T09:00:00Z", "reason": "fair week"}, "pin": "1.2.0"}"#;
    with_bytes(&[&state, orders], |bytes| {
        let (read, _) = State::read(bytes);
        goes_round(&read);
        let (read, _) = Overrides::read(bytes);
        goes_round(&read);
    });
}

#[test]
fn systemctl_show() {
    let shown = "MainPID=42\nResult=success\nLoadState=loaded\nActiveState=active\n";
    with_text(&[shown, "LoadState=not-found\n"], |text| {
        if let Ok(state) = systemd::parse(text) {
            assert!(state.pid != Some(0) && state.result.len() <= text.len());
        }
    });
}
