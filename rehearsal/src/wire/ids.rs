//! New identifiers in AWS's forms.

/// `bytes` random bytes in lower-case hex.
///
/// # Panics
/// When the operating system provides no random bytes.
fn random_hex(bytes: usize) -> String {
    let mut raw = vec![0_u8; bytes];
    getrandom::fill(&mut raw).expect("the operating system gives randomness");
    raw.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// A resource id such as `i-0123456789abcdef0`: the prefix, a `0` as AWS has it, 16 hex digits.
pub(crate) fn resource(prefix: &str) -> String {
    format!("{prefix}-0{}", random_hex(8))
}

/// A version-4 UUID.
pub(crate) fn uuid() -> String {
    let hex = random_hex(16);
    let variant = ["8", "9", "a", "b"][usize::from(hex.as_bytes()[16] % 4)];
    format!(
        "{}-{}-4{}-{variant}{}-{}",
        &hex[..8],
        &hex[8..12],
        &hex[13..16],
        &hex[17..20],
        &hex[20..32]
    )
}

/// `digits` lower-case hex digits, as ELB has them in its ARNs.
pub(crate) fn hex(digits: usize) -> String {
    let mut text = random_hex(digits.div_ceil(2));
    text.truncate(digits);
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_have_the_shapes_sdks_expect() {
        let id = resource("i");
        assert_eq!(id.len(), 19, "{id}");
        assert!(id.starts_with("i-0"));
        let id = uuid();
        let lengths: Vec<usize> = id.split('-').map(str::len).collect();
        assert_eq!(lengths, [8, 4, 4, 4, 12], "{id}");
        assert_eq!(&id[14..15], "4");
        assert_ne!(uuid(), uuid());
    }
}
