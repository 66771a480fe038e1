//! A writer for the XML of AWS's query protocols.

use std::fmt::{Display, Write as _};

/// The content of an element, being written.
///
/// ```text
/// let mut xml = Xml::new();
/// xml.text("vpcId", "vpc-1").list("tagSet", "item", &tags, |x, (k, v)| { x.text("key", k).text("value", v); });
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Xml(String);

impl Xml {
    /// Empty content.
    pub(crate) fn new() -> Self {
        Self::default()
    }

    /// `<name>value</name>`, escaped.
    pub(crate) fn text(&mut self, name: &str, value: impl Display) -> &mut Self {
        self.open(name);
        escape_into(&mut self.0, &value.to_string());
        self.close(name)
    }

    /// Bare text inside the element being written, escaped.
    pub(crate) fn content(&mut self, value: impl Display) -> &mut Self {
        escape_into(&mut self.0, &value.to_string());
        self
    }

    /// [`Xml::text`] when there is a value, nothing otherwise.
    pub(crate) fn maybe(&mut self, name: &str, value: Option<impl Display>) -> &mut Self {
        match value {
            Some(value) => self.text(name, value),
            None => self,
        }
    }

    /// `<name>…</name>` with the content that `inside` writes.
    pub(crate) fn node(&mut self, name: &str, inside: impl FnOnce(&mut Self)) -> &mut Self {
        self.open(name);
        inside(self);
        self.close(name)
    }

    /// `<name><item>…</item>…</name>`: EC2 calls its items `item`, the other services `member`.
    pub(crate) fn list<T>(
        &mut self,
        name: &str,
        item: &str,
        values: impl IntoIterator<Item = T>,
        mut each: impl FnMut(&mut Self, T),
    ) -> &mut Self {
        self.open(name);
        for value in values {
            self.open(item);
            each(self, value);
            self.close(item);
        }
        self.close(name)
    }

    /// [`Xml::list`] of plain texts.
    pub(crate) fn texts<T: Display>(
        &mut self,
        name: &str,
        item: &str,
        values: impl IntoIterator<Item = T>,
    ) -> &mut Self {
        self.open(name);
        for value in values {
            self.text(item, value);
        }
        self.close(name)
    }

    /// The written content.
    pub(crate) fn into_string(self) -> String {
        self.0
    }

    fn open(&mut self, name: &str) {
        // Writing to a String cannot fail.
        let _ = write!(self.0, "<{name}>");
    }

    fn close(&mut self, name: &str) -> &mut Self {
        let _ = write!(self.0, "</{name}>");
        self
    }
}

/// Appends `text` with XML's special characters escaped, and characters XML 1.0 cannot carry (a guest's console may
/// hold any) replaced.
pub(crate) fn escape_into(out: &mut String, text: &str) {
    for character in text.chars() {
        match character {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            // A bare carriage return would be parsed as a line feed.
            '\r' => out.push_str("&#xD;"),
            '\t' | '\n' => out.push(character),
            '\u{0}'..='\u{1f}' | '\u{fffe}' | '\u{ffff}' => out.push('\u{fffd}'),
            _ => out.push(character),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_written_is_escaped() {
        let mut xml = Xml::new();
        xml.text("a", "1 < 2 & \"x\"\r\n\u{1}");
        assert_eq!(
            xml.into_string(),
            "<a>1 &lt; 2 &amp; &quot;x&quot;&#xD;\n\u{fffd}</a>"
        );
    }

    #[test]
    fn lists_nest() {
        let mut xml = Xml::new();
        xml.list("set", "item", [1, 2], |x, n| {
            x.text("n", n);
        })
        .texts("zones", "member", ["a", "b"])
        .maybe("none", None::<u8>)
        .list("empty", "item", Vec::<u8>::new(), |_, _| {});
        assert_eq!(
            xml.into_string(),
            "<set><item><n>1</n></item><item><n>2</n></item></set>\
             <zones><member>a</member><member>b</member></zones><empty></empty>"
        );
    }
}
