//! Prometheus text format 0.0.4: families with help, type and samples.
//!
//! Names are constants of this program; label values come from outside and are escaped.

use std::fmt::{Display, Write as _};

/// What a family counts as.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Kind {
    /// Never decreases while the process runs.
    Counter,
    /// Goes up and down.
    Gauge,
}

/// The text so far. A family without samples is left out.
#[derive(Debug, Default)]
pub(crate) struct Exposition {
    text: String,
    name: &'static str,
    /// Help and type, until the first sample.
    heading: Option<(Kind, &'static str)>,
}

impl Exposition {
    /// The content type of the whole.
    pub(crate) const TYPE: &str = "text/plain; version=0.0.4; charset=utf-8";

    /// Begins a family. Every sample until the next belongs to it.
    pub(crate) fn family(
        &mut self,
        name: &'static str,
        kind: Kind,
        help: &'static str,
    ) -> &mut Self {
        self.name = name;
        self.heading = Some((kind, help));
        self
    }

    /// Adds a sample. Labels whose value is empty are written too: to Prometheus they are not there.
    pub(crate) fn sample(&mut self, labels: &[(&str, &str)], value: impl Display) -> &mut Self {
        let (text, name) = (&mut self.text, self.name);
        if let Some((kind, help)) = self.heading.take() {
            let kind = match kind {
                Kind::Counter => "counter",
                Kind::Gauge => "gauge",
            };
            // Writing to a string cannot fail, here and below.
            let _ = writeln!(text, "# HELP {name} {help}\n# TYPE {name} {kind}");
        }
        text.push_str(name);
        for (at, (label, value)) in labels.iter().enumerate() {
            text.push(if at == 0 { '{' } else { ',' });
            text.push_str(label);
            text.push_str("=\"");
            for c in value.chars() {
                match c {
                    '\\' => text.push_str("\\\\"),
                    '"' => text.push_str("\\\""),
                    '\n' => text.push_str("\\n"),
                    c => text.push(c),
                }
            }
            text.push('"');
        }
        if !labels.is_empty() {
            text.push('}');
        }
        let _ = writeln!(text, " {value}");
        self
    }

    /// The whole text.
    pub(crate) fn into_string(self) -> String {
        self.text
    }
}
