//! Drains of the whole loop: a busy worker on a paused clock, and real peers on the real one.

use std::time::Duration;

use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::TcpListener;

use super::fakes::{Facts, Harness, in_group};
use super::*;
use crate::hooks::Phase;
use crate::identity::TargetState;

fn with(drain: &str) -> Facts {
    Facts {
        user_data: Some(format!(
            "#imagebuilder-agent\n[gate]\npasses = 1\n[drain]\n{drain}"
        )),
        ..in_group()
    }
}

async fn serving(facts: Facts) -> Harness {
    let harness = Harness::open(facts);
    harness
        .until(|facts| facts.status.starts_with("serving in group"))
        .await;
    harness
}

fn terminate(harness: &Harness) {
    harness.change(|facts| {
        facts.target = Some(TargetState::Terminated);
        facts.phase = Some(Phase::TerminatingWait);
    });
}

#[tokio::test(start_paused = true)]
async fn the_hook_waits_for_a_worker_that_is_busy_for_90_s() {
    let harness = serving(with("command = [\"/usr/bin/never-run\"]\n")).await;
    let begun = harness.fake.age();
    harness.change(|facts| facts.busy_for = begun + Duration::from_secs(90));
    terminate(&harness);
    harness
        .until(|facts| facts.status == "draining; the services are still busy")
        .await;
    assert!(harness.fake.facts().record.is_some());
    let facts = harness.until(|facts| facts.answers.len() == 2).await;
    let took = harness.fake.age() - begun;
    assert_eq!(facts.answers[1], ("out".to_owned(), "CONTINUE"));
    // The next question after 90 s, and nothing after that.
    let seconds = took.as_secs();
    assert!((90..=98).contains(&seconds), "{took:?}");
    assert!(
        (18..=21).contains(&facts.asked_busy),
        "{}",
        facts.asked_busy
    );
    // The hook's timeout is 60 s: without heartbeats it would be over.
    assert!(facts.beats >= 4, "{}", facts.beats);
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn heartbeats_that_fail_do_not_end_the_drain() {
    let harness = serving(with("command = [\"/usr/bin/never-run\"]\n")).await;
    let begun = harness.fake.age();
    harness.change(|facts| facts.busy_for = begun + Duration::from_secs(300));
    terminate(&harness);
    harness.until(|facts| facts.beats >= 1).await;
    harness.change(|facts| facts.api_down = true);
    let asked = harness.fake.facts().asked_busy;
    harness.until(|facts| facts.asked_busy > asked + 5).await;
    harness.change(|facts| facts.api_down = false);
    let beats = harness.fake.facts().beats;
    let facts = harness.until(|facts| facts.beats > beats).await;
    assert_eq!(facts.answers.len(), 1, "{:?}", facts.answers);
    harness.until(|facts| facts.answers.len() == 2).await;
    harness.close().await;
}

#[tokio::test(start_paused = true)]
async fn a_spot_interruption_ends_a_busy_drain_in_time() {
    let harness = serving(with("command = [\"/usr/bin/never-run\"]\n")).await;
    let begun = harness.fake.age();
    let ends = i64::try_from(begun.as_secs()).unwrap() + 120;
    harness.change(|facts| {
        facts.busy_for = Duration::from_secs(36_000);
        facts.spot.interruption = Some(crate::notice::Spot {
            action: "terminate".to_owned(),
            at: Timestamp::from_second(ends).ok(),
        });
    });
    harness
        .until(|facts| facts.status == "draining; the services are still busy")
        .await;
    harness.until(|facts| facts.record.is_none()).await;
    let took = (harness.fake.age() - begun).as_secs();
    assert!((100..=110).contains(&took), "{took}");
    harness.close().await;
}

/// A service that answers the questions by their number; `None` is silence.
async fn peer(answer: impl Fn(usize) -> Option<&'static str> + Send + 'static) -> String {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("http://{}/busy", listener.local_addr().unwrap());
    tokio::spawn(async move {
        let mut silent = Vec::new();
        for turn in 0.. {
            let Ok((mut stream, _)) = listener.accept().await else {
                return;
            };
            match answer(turn) {
                None => silent.push(stream),
                Some(answer) => {
                    let _ = stream.read(&mut [0; 1024]).await;
                    let _ = stream.write_all(answer.as_bytes()).await;
                }
            }
        }
    });
    url
}

/// Drains with a question to `url` a second; returns after the hook was answered: how long that took.
async fn drained(url: &str, deadline: u64) -> Duration {
    let facts = Facts {
        real_drain: true,
        ..with(&format!(
            "url = \"{url}\"\nsettle_seconds = 0\ninterval_seconds = 1\ntimeout_seconds = 1\n\
             deadline_seconds = {deadline}\n"
        ))
    };
    let harness = serving(facts).await;
    let begun = Instant::now();
    terminate(&harness);
    let facts = harness.until(|facts| facts.answers.len() == 2).await;
    let took = begun.elapsed();
    assert!(facts.asked_busy >= 1, "{url}");
    assert_eq!(facts.answers[1], ("out".to_owned(), "CONTINUE"));
    harness.close().await;
    took
}

#[tokio::test]
async fn a_drain_ends_with_each_kind_of_peer() {
    const DONE: &str = "HTTP/1.1 204 No Content\r\n\r\n";
    const BUSY: &str = "HTTP/1.1 200 OK\r\ncontent-length: 0\r\n\r\n";
    const SICK: &str = "HTTP/1.1 503 Service Unavailable\r\ncontent-length: 0\r\n\r\n";
    let deadline = Duration::from_secs(4);
    // Answers at last: long before its deadline of an hour.
    let slow = peer(|turn| (turn > 1).then_some(DONE)).await;
    let flapping = peer(|turn| Some([BUSY, SICK, BUSY, DONE][turn.min(3)])).await;
    // Never says that it is done: only its deadline ends it.
    let lying = peer(|_| Some(BUSY)).await;
    let silent = peer(|_| None).await;
    let (_, _, lying, silent, refused) = tokio::join!(
        drained(&slow, 3600),
        drained(&flapping, 3600),
        drained(&lying, 4),
        drained(&silent, 4),
        drained("http://127.0.0.1:1/busy", 4),
    );
    for (name, took) in [("lying", lying), ("silent", silent), ("refused", refused)] {
        assert!(took >= deadline, "{name}: {took:?}");
    }
}
