//! Waves: which share of a fleet a release has reached, and when it reaches this instance.

use contract::release::Rollout;
use hmac::{Hmac, KeyInit as _, Mac as _};
use jiff::{SignedDuration, Timestamp};
use sha2::Sha256;

use crate::channel::Digest;

/// Positions in a fleet: 0 to this, exclusive.
pub const POSITIONS: u16 = 2048;

/// An instance's position in the fleet for one release: the first eleven bits of HMAC-SHA256(release digest, instance
/// id).
///
/// Every release has other canaries, and an image cannot give all its instances the same position.
#[must_use]
pub(crate) fn position(digest: &Digest, instance_id: &str) -> u16 {
    // A whole block: HMAC fills shorter keys with zeros (RFC 2104, section 2).
    let mut key = [0_u8; 64];
    for (byte, pair) in key.iter_mut().zip(digest.as_str().as_bytes().chunks(2)) {
        // Digests are hex by construction.
        let nibble = |c: u8| (c as char).to_digit(16).unwrap_or(0) as u8;
        *byte = pair.iter().fold(0, |byte, c| byte << 4 | nibble(*c));
    }
    let mut mac = Hmac::<Sha256>::new(&key.into());
    mac.update(instance_id.as_bytes());
    let tag = mac.finalize().into_bytes();
    u16::from_be_bytes([tag[0], tag[1]]) >> 5
}

/// When a release reaches the instance at `position`; `None` if its waves end before.
///
/// A wave covers the positions between the share before it and its own, spread evenly from its start to the next
/// wave's, so that they never update at once. The last wave takes as long as the one before it; a single one as long
/// as the release waited for it.
#[must_use]
pub(crate) fn reaches(rollout: &Rollout, position: u16) -> Option<Timestamp> {
    let waves = &rollout.waves;
    if waves.is_empty() {
        return Some(rollout.since);
    }
    // Shares in hundredths of a position, so that a share is exact.
    let place = i64::from(position) * 100;
    let share = |percent: u8| i64::from(percent) * i64::from(POSITIONS);
    let index = waves.iter().position(|wave| place < share(wave.percent))?;
    let wave = waves[index];
    let before = index.checked_sub(1).map(|index| waves[index]);
    let length = match (waves.get(index + 1), before) {
        (Some(next), _) => next.at.as_second() - wave.at.as_second(),
        (None, Some(before)) => wave.at.as_second() - before.at.as_second(),
        (None, None) => wave.at.as_second() - rollout.since.as_second(),
    };
    let low = before.map_or(0, |before| share(before.percent));
    // In 128 bits: lengths up to the whole of time.
    let into =
        i128::from(length.max(0)) * i128::from(place - low) / i128::from(share(wave.percent) - low);
    let into = SignedDuration::from_secs(i64::try_from(into).ok()?);
    Some(wave.at.checked_add(into).unwrap_or(Timestamp::MAX))
}

#[cfg(test)]
mod tests {
    use contract::release::Wave;

    use super::*;

    fn at(hour: i64) -> Timestamp {
        Timestamp::from_second(hour * 3600).unwrap()
    }

    fn rollout(waves: &[(u8, i64)]) -> Rollout {
        let waves = waves.iter().map(|(percent, hour)| Wave {
            percent: *percent,
            at: at(*hour),
        });
        Rollout {
            since: at(0),
            waves: waves.collect(),
        }
    }

    /// Computed with Python: `hmac.new(bytes.fromhex("00…1f"), b"i-0123456789abcdef0", "sha256")`.
    #[test]
    fn the_position_is_the_agreed_one() {
        let digest: String = (0..32).map(|byte| format!("{byte:02x}")).collect();
        let digest = Digest::parse(&digest).unwrap();
        assert_eq!(position(&digest, "i-0123456789abcdef0"), 1024);
        assert_eq!(position(&digest, "machine-1"), 1221);
    }

    #[test]
    fn a_wave_is_spread_until_the_next_one() {
        let waves = rollout(&[(25, 10), (50, 20), (100, 40)]);
        for (position, hour) in [
            (0, 10),
            (256, 15),
            (512, 20),
            (768, 30),
            // The last one takes as long as the one before it.
            (1024, 40),
            (1536, 50),
        ] {
            assert_eq!(reaches(&waves, position), Some(at(hour)), "{position}");
        }
        assert!(reaches(&waves, 511) < Some(at(20)));
        assert!(reaches(&waves, 2047) < Some(at(60)));
    }

    #[test]
    fn without_waves_at_once_and_beyond_the_last_never() {
        assert_eq!(reaches(&rollout(&[]), 2047), Some(at(0)));
        let half = rollout(&[(50, 10)]);
        assert_eq!(reaches(&half, 512), Some(at(15)));
        assert_eq!(reaches(&half, 1024), None);
        // 1 % of 2048 is 20.48: positions 0 to 20.
        let canaries = rollout(&[(1, 0)]);
        assert_eq!(reaches(&canaries, 20), Some(at(0)));
        assert_eq!(reaches(&canaries, 21), None);
        // A wave without a length, and one before the release joined the channel.
        assert_eq!(reaches(&rollout(&[(50, 5), (100, 5)]), 2047), Some(at(5)));
        assert_eq!(reaches(&rollout(&[(100, -5)]), 2047), Some(at(-5)));
    }

    #[test]
    fn the_ends_of_time_are_no_trap() {
        let mut all = rollout(&[(50, 0), (100, 0)]);
        all.waves[0].at = Timestamp::MIN;
        all.waves[1].at = Timestamp::MAX;
        assert_eq!(reaches(&all, 2047), Some(Timestamp::MAX));
        assert!(reaches(&all, 1023).is_some());
    }
}
