//! How a release spreads: shapes such as `1%@0h,5%@1h,100%@6h`, and the built-in ones by name.
//!
//! A shape is relative; [`Shape::from`] puts it at a time. What a wave means on an instance is the agent's business.

use std::collections::BTreeMap;
use std::fmt;

use contract::release::Wave;
use jiff::{SignedDuration, Timestamp};
use serde::Deserialize;

/// One step of a shape.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Step {
    /// Cumulative share of the fleet, 1 to 100.
    pub(crate) percent: u8,
    /// After the start.
    pub(crate) after: SignedDuration,
}

/// Cumulative shares of the fleet and when, after the start, each begins; ascending. Empty: the whole fleet at once.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(try_from = "String")]
pub(crate) struct Shape(pub(crate) Vec<Step>);

/// Longest time a release may take to reach the whole fleet: half a year.
const LONGEST: SignedDuration = SignedDuration::from_hours(24 * 183);

/// The built-in shapes. `default` leaves a working day to notice before a fifth of the fleet has it.
const BUILT_IN: [(&str, &str); 3] = [
    ("default", "1%@0h,5%@4h,15%@1d,40%@2d,60%@3d,90%@4d,100%@6d"),
    ("fast", "1%@0h,10%@30m,50%@2h,100%@4h"),
    ("all-at-once", ""),
];

impl Shape {
    /// Reads `1%@0h,5%@1h`, or nothing for the whole fleet at once.
    ///
    /// # Errors
    /// Names the step that is wrong.
    pub(crate) fn parse(text: &str) -> Result<Self, String> {
        let mut steps: Vec<Step> = Vec::new();
        for part in text.split(',').map(str::trim) {
            if part.is_empty() && text.trim().is_empty() {
                break;
            }
            let step = step(part).ok_or_else(|| {
                format!("`{part}` is not a wave: it looks like 5%@1h, after m, h or d")
            })?;
            if let Some(last) = steps.last()
                && (last.percent >= step.percent || last.after > step.after)
            {
                return Err(format!("waves `{text}` do not ascend at `{part}`"));
            }
            if step.after > LONGEST {
                return Err(format!("wave `{part}` is more than half a year away"));
            }
            steps.push(step);
        }
        Ok(Self(steps))
    }

    /// The shape that `text` names, in `ours` or built in, or spells out.
    ///
    /// # Errors
    /// When it is neither.
    pub(crate) fn named(text: &str, ours: &BTreeMap<String, Self>) -> Result<Self, String> {
        if let Some(shape) = ours.get(text) {
            return Ok(shape.clone());
        }
        if let Some((_, shape)) = BUILT_IN.iter().find(|(name, _)| *name == text) {
            return Self::parse(shape);
        }
        if text.contains('@') {
            return Self::parse(text);
        }
        let known: Vec<&str> = BUILT_IN
            .iter()
            .map(|(name, _)| *name)
            .chain(ours.keys().map(String::as_str))
            .collect();
        Err(format!(
            "`{text}` is not a wave profile: it is one of {}, or like 1%@0h,5%@1h",
            known.join(", ")
        ))
    }

    /// The waves of a rollout that starts at `start`.
    pub(crate) fn from(&self, start: Timestamp) -> Vec<Wave> {
        self.0
            .iter()
            .map(|step| Wave {
                percent: step.percent,
                at: start + step.after,
            })
            .collect()
    }

    /// The shape of waves that started at `start`.
    pub(crate) fn of(waves: &[Wave], start: Timestamp) -> Self {
        Self(
            waves
                .iter()
                .map(|wave| Step {
                    percent: wave.percent,
                    after: wave.at.duration_since(start),
                })
                .collect(),
        )
    }
}

fn step(text: &str) -> Option<Step> {
    let (percent, after) = text.split_once("%@")?;
    let percent = percent.parse().ok().filter(|p| (1..=100).contains(p))?;
    let unit = after.chars().last()?;
    let number: i64 = after[..after.len() - unit.len_utf8()]
        .parse::<u16>()
        .ok()?
        .into();
    let after = match unit {
        'm' => SignedDuration::from_mins(number),
        'h' => SignedDuration::from_hours(number),
        'd' => SignedDuration::from_hours(24 * number),
        _ => return None,
    };
    Some(Step { percent, after })
}

impl TryFrom<String> for Shape {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        Self::parse(&text)
    }
}

impl fmt::Display for Shape {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.0.is_empty() {
            return f.write_str("all at once");
        }
        for (at, step) in self.0.iter().enumerate() {
            let minutes = step.after.as_mins();
            let after = match minutes {
                0 => "0h".to_owned(),
                m if m % (24 * 60) == 0 => format!("{}d", m / (24 * 60)),
                m if m % 60 == 0 => format!("{}h", m / 60),
                m => format!("{m}m"),
            };
            write!(
                f,
                "{}{}%@{after}",
                if at == 0 { "" } else { "," },
                step.percent
            )?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn built_in_shapes_reach_the_whole_fleet_and_parse_back() {
        for (name, text) in BUILT_IN {
            let shape = Shape::named(name, &BTreeMap::new()).unwrap();
            assert!(
                shape.0.last().is_none_or(|last| last.percent == 100),
                "{name}"
            );
            if !text.is_empty() {
                assert_eq!(Shape::parse(&shape.to_string()).unwrap(), shape, "{name}");
            }
            let start = Timestamp::UNIX_EPOCH;
            assert_eq!(Shape::of(&shape.from(start), start), shape, "{name}");
        }
    }

    #[test]
    fn configured_shapes_override_built_in_ones() {
        let ours = BTreeMap::from([("default".to_owned(), Shape::parse("100%@90m").unwrap())]);
        let shape = Shape::named("default", &ours).unwrap();
        assert_eq!(shape.to_string(), "100%@90m");
        assert_eq!(
            shape.from(Timestamp::UNIX_EPOCH)[0].at.to_string(),
            "1970-01-01T01:30:00Z"
        );
    }

    #[test]
    fn an_invalid_shape_is_refused_with_its_reason() {
        let printed = |text: &str| Shape::named(text, &BTreeMap::new()).unwrap_err();
        insta::assert_snapshot!(
            ["slow", "5@1h", "5%@1h,", "5%@1h,5%@2h", "5%@2h,10%@1h", "0%@1h", "101%@1h", "5%@1y", "5%@-1h", "5%@", "5%@999d", "5%@1\u{e9}"]
                .map(printed)
                .join("\n"),
            @r#"
            `slow` is not a wave profile: it is one of default, fast, all-at-once, or like 1%@0h,5%@1h
            `5@1h` is not a wave: it looks like 5%@1h, after m, h or d
            `` is not a wave: it looks like 5%@1h, after m, h or d
            waves `5%@1h,5%@2h` do not ascend at `5%@2h`
            waves `5%@2h,10%@1h` do not ascend at `10%@1h`
            `0%@1h` is not a wave: it looks like 5%@1h, after m, h or d
            `101%@1h` is not a wave: it looks like 5%@1h, after m, h or d
            `5%@1y` is not a wave: it looks like 5%@1h, after m, h or d
            `5%@-1h` is not a wave: it looks like 5%@1h, after m, h or d
            `5%@` is not a wave: it looks like 5%@1h, after m, h or d
            wave `5%@999d` is more than half a year away
            `5%@1é` is not a wave: it looks like 5%@1h, after m, h or d
            "#
        );
    }
}
