//! A run's id: it begins with its time, so that the ids of runs sort by it.

use cloud::ids::RunId;

/// A new run's id: its time, its verb, and six random characters.
pub fn run_id(verb: &str, at: jiff::Timestamp, random: u32) -> RunId {
    let text = format!(
        "{}-{verb}-{:06x}",
        at.strftime("%Y%m%dT%H%M%SZ"),
        random & 0x00ff_ffff
    );
    match RunId::parse(text) {
        Ok(run) => run,
        Err(_) => unreachable!("a time, a verb and hex digits are a run id"),
    }
}

/// When a run began, from its id; `None` when it does not begin with a time.
pub fn run_began(run: &RunId) -> Option<jiff::Timestamp> {
    let stamp = run.as_str().split('-').next()?;
    jiff::civil::DateTime::strptime("%Y%m%dT%H%M%SZ", stamp)
        .ok()?
        .to_zoned(jiff::tz::TimeZone::UTC)
        .ok()
        .map(|zoned| zoned.timestamp())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_run_id_begins_with_its_time() {
        let at: jiff::Timestamp = "2026-01-02T03:04:05Z".parse().unwrap();
        let run = run_id("bake", at, 0xffab_cdef);
        assert_eq!(run.as_str(), "20260102T030405Z-bake-abcdef");
        assert_eq!(run_began(&run), Some(at));
        assert_eq!(run_began(&RunId::parse("other").unwrap()), None);
    }
}
