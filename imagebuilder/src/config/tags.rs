//! `[tags]`: the user's own tags on everything that a bake creates.

use std::collections::BTreeMap;

/// Tags that EC2 allows on one resource.
const MOST: usize = 50;
/// Tags of this program on one resource: seven of a bake, the verdict, the name of the parameter that named its source, `Name`.
const OURS: usize = 10;
/// Longest key.
const KEY: usize = 128;
/// Longest value.
const VALUE: usize = 256;

/// Tags that cannot be set.
pub(super) fn findings(tags: &BTreeMap<String, String>) -> Vec<String> {
    let mut findings: Vec<String> = tags
        .iter()
        .flat_map(|(key, value)| {
            [refusal_of_key(key), refusal_of_value(value)]
                .into_iter()
                .flatten()
                .map(|why| format!("[tags] `{}` {why}", key.escape_debug()))
                .collect::<Vec<_>>()
        })
        .collect();
    if tags.len() > MOST - OURS {
        findings.push(format!(
            "[tags] has {} tags: EC2 allows {MOST} on a resource, and {OURS} of them are ours, so {} remain",
            tags.len(),
            MOST - OURS
        ));
    }
    findings
}

fn refusal_of_key(key: &str) -> Option<String> {
    let lower = key.to_lowercase();
    if key.is_empty() {
        return Some("is empty".to_owned());
    }
    if lower.starts_with("aws:") {
        return Some("begins with `aws:`, which AWS reserves".to_owned());
    }
    if key.starts_with(contract::tags::PREFIX) {
        return Some(format!(
            "begins with `{}`, which is this program's",
            contract::tags::PREFIX
        ));
    }
    if key == "Name" {
        return Some("is set by this program to what each resource is".to_owned());
    }
    if key.chars().count() > KEY {
        return Some(format!("is longer than {KEY} characters"));
    }
    key.chars()
        .find(|c| !fits(*c))
        .map(|c| format!("has the character `{}`, {ALLOWED}", c.escape_debug()))
}

fn refusal_of_value(value: &str) -> Option<String> {
    if value.chars().count() > VALUE {
        return Some(format!("has a value of more than {VALUE} characters"));
    }
    value
        .chars()
        .find(|c| !fits(*c))
        .map(|c| format!("has `{}` in its value, {ALLOWED}", c.escape_debug()))
}

/// What the documentation of EC2 allows in tags.
const ALLOWED: &str = "and EC2 allows letters, digits, blanks and + - = . _ : / @";

fn fits(c: char) -> bool {
    c.is_alphanumeric() || c == ' ' || "+-=._:/@".contains(c)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tags_that_ec2_or_this_program_refuses_are_named() {
        let long = "x".repeat(129);
        let large = "x".repeat(257);
        for (key, value, want) in [
            ("team", "Größe 1 / a@b:c", ""),
            ("aws", "", ""),
            ("Names", "", ""),
            ("", "x", "is empty"),
            ("AWS:x", "x", "which AWS reserves"),
            ("imagebuilder:run", "x", "which is this program's"),
            ("Name", "x", "is set by this program"),
            (&long, "x", "is longer than 128 characters"),
            ("team", &large, "has a value of more than 256 characters"),
            ("a,b", "x", "has the character `,`"),
            ("team", "a\nb", "has `\\n` in its value"),
        ] {
            let found = findings(&[(key.to_owned(), value.to_owned())].into()).join("; ");
            assert!(
                found.contains(want) && found.is_empty() == want.is_empty(),
                "{key}: {found}"
            );
        }
        let many = |count: usize| {
            let tags = (0..count).map(|n| (format!("t{n}"), String::new()));
            findings(&tags.collect())
        };
        assert_eq!(many(40), [""; 0]);
        assert!(many(41)[0].contains("so 40 remain"), "{:?}", many(41));
    }
}
