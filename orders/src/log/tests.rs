use std::sync::mpsc::{Receiver, Sender, channel};

use super::*;

/// A reader of the log that reads when the test lets it.
struct Reader {
    read: Receiver<()>,
    got: Sender<Vec<u8>>,
}

impl Write for Reader {
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        // An error means that the test has released it.
        let _ = self.read.recv();
        let _ = self.got.send(lines.to_vec());
        Ok(lines.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[test]
fn a_line_is_one_json_object_with_its_spans_fields() {
    let spool = Arc::new(Spool::default());
    let subscriber = tracing_subscriber::registry().with(JsonLines(Arc::clone(&spool)));
    tracing::subscriber::with_default(subscriber, || {
        let span = tracing::info_span!("request", request = "a\"b");
        span.in_scope(|| {
            tracing::warn!(
                text = "line\nbreak \\ \u{1b}[2J ä",
                n = 7_u64,
                below = -1,
                yes = true,
                half = 0.5,
                endless = f64::INFINITY,
                shown = %"<i>",
                absent = None::<u64>,
                "it \"happened\""
            );
        });
        tracing::info!("later");
    });
    let lines = String::from_utf8(std::mem::take(&mut spool.lock().lines)).unwrap();
    let lines: Vec<serde_json::Value> = lines
        .lines()
        .map(|line| serde_json::from_str(line).expect(line))
        .collect();
    let mut first = lines[0].clone();
    let time = first.as_object_mut().unwrap().remove("timestamp").unwrap();
    let time: jiff::Timestamp = time.as_str().unwrap().parse().unwrap();
    assert!(time <= jiff::Timestamp::now());
    assert_eq!(
        first,
        serde_json::json!({
            "level": "WARN",
            "message": "it \"happened\"",
            "text": "line\nbreak \\ \u{1b}[2J ä",
            "n": 7,
            "below": -1,
            "yes": true,
            "half": 0.5,
            "endless": null,
            "shown": "<i>",
            "request": "a\"b",
        })
    );
    assert_eq!(lines[1]["message"], "later");
    assert_eq!(lines[1].get("request"), None);
}

#[test]
fn a_stuck_reader_blocks_nothing_and_memory_is_bounded() {
    let spool = Arc::new(Spool::default());
    let (go, read) = channel();
    let (got, lines) = channel();
    let writer = Arc::clone(&spool);
    let writer = std::thread::spawn(move || writer.write_to(Reader { read, got }));
    let line = [b'x'; 1024];
    // Once the writer has taken a line it is stuck, and takes no more while the others arrive.
    spool.push(&line);
    while !spool.lock().lines.is_empty() {
        std::thread::yield_now();
    }
    for _ in 0..4 * MAX_WAITING_BYTES / line.len() {
        spool.push(&line);
    }
    {
        let waiting = spool.lock();
        assert!(waiting.lines.len() <= MAX_WAITING_BYTES);
        assert!(waiting.dropped > 0);
    }
    // When it is read again, the waiting lines are written, and the log ends.
    drop(go);
    drop(Log(Arc::clone(&spool)));
    writer.join().unwrap();
    let written: usize = lines.try_iter().map(|lines| lines.len()).sum();
    assert!(written >= MAX_WAITING_BYTES - line.len(), "{written}");
}

#[test]
fn the_end_waits_for_the_last_line() {
    let spool = Arc::new(Spool::default());
    let (go, read) = channel();
    let (got, lines) = channel();
    drop(go);
    let writer = Arc::clone(&spool);
    let writer = std::thread::spawn(move || writer.write_to(Reader { read, got }));
    for n in 0..100 {
        spool.push(format!("{n}\n").as_bytes());
    }
    drop(Log(spool));
    let all: Vec<u8> = lines.try_iter().flatten().collect();
    let expected: String = (0..100).map(|n| format!("{n}\n")).collect();
    assert_eq!(String::from_utf8(all).unwrap(), expected);
    writer.join().unwrap();
}
