//! KMS keys that sign: the private half never leaves the service.

use async_trait::async_trait;

use super::Answer;

/// How a KMS key signs.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SigningAlgorithm {
    /// ECDSA on NIST P-256 over SHA-256.
    EcdsaP256,
    /// RSASSA-PSS over SHA-256, MGF1 with the same, salt as long as the digest.
    RsaPss,
}

/// The public half of a KMS key.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublicKey {
    /// DER of its SubjectPublicKeyInfo.
    pub der: Vec<u8>,
    /// How it signs.
    pub algorithm: SigningAlgorithm,
}

/// Asymmetric signing keys by id, ARN or alias.
#[async_trait]
pub trait SigningKeys: Send + Sync {
    /// The public half; a key whose algorithm TUF does not support is `Invalid`.
    async fn public_key(&self, id: &str) -> Answer<PublicKey>;
    /// Signs a message by its SHA-256. ECDSA signatures are DER, RSA's as long as the modulus.
    async fn sign(&self, id: &str, algorithm: SigningAlgorithm, message: &[u8]) -> Answer<Vec<u8>>;
}
