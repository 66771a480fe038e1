//! The key that was probably meant, from serde's refusal.

/// From serde's "unknown field `x`, expected one of `a`, `b`", or its like of a variant: the expected one nearest to it.
pub(super) fn nearest(message: &str) -> Option<String> {
    let mut quoted = message
        .strip_prefix("unknown field ")
        .or_else(|| message.strip_prefix("unknown variant "))?
        .split('`')
        .skip(1)
        .step_by(2);
    let unknown = quoted.next()?;
    support::nearest(unknown, quoted).map(str::to_owned)
}
