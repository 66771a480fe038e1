//! An order's receipt: the secret that lets a customer see the whole order.
//!
//! Rule: an id identifies an order and grants no access, since ids appear in notices, access logs and lists.
//! The receipt grants access, and only the response to the customer contains it. It is stored with the order,
//! so that a repeated request under the same `Idempotency-Key` gets the same response. It is part of neither
//! [`Order`](crate::order::Order)'s JSON nor its `Debug`, only of its stored form
//! ([`Order::to_row`](crate::order::Order::to_row)).

use std::fmt;

use subtle::ConstantTimeEq;

use crate::secret;

/// The receipt of one order: 192 random bits from the operating system.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt(String);

impl Receipt {
    /// Prefix of every receipt: distinguishes it from other bearer tokens and from what a customer may have
    /// written into a field of the same name, and lets scanners find leaked ones.
    pub const PREFIX: &str = "shop_receipt_";
    const BYTES: usize = 24;

    /// Generates a new receipt.
    ///
    /// # Errors
    /// If the operating system provides no randomness.
    pub fn new() -> anyhow::Result<Self> {
        secret::draw::<{ Self::BYTES }>(Self::PREFIX).map(Self)
    }

    /// Parses a receipt; `None` if `text` does not have the form of one.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        secret::has_form::<{ Self::BYTES }>(Self::PREFIX, text).then(|| Self(text.to_owned()))
    }

    /// The receipt's text, for the customer and the store.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Compares in constant time.
    #[must_use]
    pub fn is(&self, shown: &[u8]) -> bool {
        self.0.as_bytes().ct_eq(shown).into()
    }
}

impl fmt::Debug for Receipt {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Receipt(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_receipt_round_trips_and_is_hidden_from_debug() {
        let receipt = Receipt::new().unwrap();
        let text = receipt.reveal();
        assert_eq!(Receipt::parse(text), Some(receipt.clone()));
        assert!(receipt.is(text.as_bytes()));
        assert_ne!(Receipt::new().unwrap(), receipt);
        assert_eq!(format!("{receipt:?}"), "Receipt(…)");
        for other in ["", Receipt::PREFIX, &text[..text.len() - 2], &text[1..]] {
            assert_eq!(Receipt::parse(other), None, "{other}");
            assert!(!receipt.is(other.as_bytes()), "{other}");
        }
    }
}
