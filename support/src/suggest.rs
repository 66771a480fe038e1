//! The known word that was probably meant.

/// The known word nearest to an unknown one, for `hint: did you mean …?`; `None` when none is near.
///
/// Near is a Damerau-Levenshtein distance of at most a third of the longer word, and of one for words of up to three letters. Of
/// equally near words the first is returned.
#[must_use]
pub fn nearest<'a>(unknown: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    known
        .into_iter()
        .map(|word| (strsim::damerau_levenshtein(unknown, word), word))
        .filter(|(distance, word)| {
            let longer = unknown.chars().count().max(word.chars().count());
            *distance <= (longer / 3).max(1)
        })
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, word)| word)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nearest_is_a_word_that_was_probably_meant() {
        let known = ["listen", "store", "stall-limit", "throttle.ec2", "az"];
        for (unknown, expected) in [
            ("listn", Some("listen")),
            ("lisetn", Some("listen")),
            ("stor", Some("store")),
            ("stal-limit", Some("stall-limit")),
            ("trottle.ec3", Some("throttle.ec2")),
            ("a", Some("az")),
            ("flowers", None),
            ("", None),
        ] {
            assert_eq!(nearest(unknown, known), expected, "{unknown}");
        }
    }
}
