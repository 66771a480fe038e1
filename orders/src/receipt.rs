//! An order's receipt: the secret that shows a customer the whole of their order.
//!
//! Rule: an id names an order and opens nothing; ids are in notices, access logs and lists. What opens
//! an order is its receipt, which only the answer to the customer holds. It is kept with the order, so
//! that an order sent again under its `Idempotency-Key` gets the same answer, and it is neither part of
//! [`Order`](crate::order::Order)'s JSON nor of its `Debug`: only the form that stores keep
//! ([`Order::to_row`](crate::order::Order::to_row)) has it.

use std::fmt;

use subtle::ConstantTimeEq;

use crate::secret;

/// The receipt of one order: 192 bits from the system's source.
#[derive(Clone, PartialEq, Eq)]
pub struct Receipt(String);

impl Receipt {
    /// How every receipt begins: tells it from other bearer tokens and from what a customer may have
    /// written into a field of the same name, and lets scanners for leaked secrets find it.
    pub const PREFIX: &str = "shop_receipt_";
    const BYTES: usize = 24;

    /// A new one that nobody can guess.
    ///
    /// # Errors
    /// When the system has no randomness to give.
    pub fn new() -> anyhow::Result<Self> {
        secret::draw::<{ Self::BYTES }>(Self::PREFIX).map(Self)
    }

    /// The receipt that `text` spells, if it could be one of ours.
    #[must_use]
    pub fn parse(text: &str) -> Option<Self> {
        secret::has_form::<{ Self::BYTES }>(Self::PREFIX, text).then(|| Self(text.to_owned()))
    }

    /// Its text, for the customer and the store.
    #[must_use]
    pub fn reveal(&self) -> &str {
        &self.0
    }

    /// Whether `shown` is this receipt. The time it takes says nothing of where they differ.
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
    fn a_receipt_is_read_back_and_never_shown_by_accident() {
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
