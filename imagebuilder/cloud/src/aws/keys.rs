//! KMS keys that sign.

use async_trait::async_trait;
use aws_sdk_kms::primitives::Blob;
use aws_sdk_kms::types::{MessageType, SigningAlgorithmSpec};

use sha2::{Digest as _, Sha256};

use super::error::{failed, incomplete};
use crate::{Answer, CloudError, Kind, PublicKey, SigningAlgorithm, SigningKeys};

/// Longest message that KMS hashes itself, in bytes: API reference of `Sign`, `Message`.
const MOST_RAW: usize = 4096;

pub(super) struct Kms(pub(super) aws_sdk_kms::Client);

fn spec(algorithm: SigningAlgorithm) -> SigningAlgorithmSpec {
    match algorithm {
        SigningAlgorithm::EcdsaP256 => SigningAlgorithmSpec::EcdsaSha256,
        SigningAlgorithm::RsaPss => SigningAlgorithmSpec::RsassaPssSha256,
    }
}

#[async_trait]
impl SigningKeys for Kms {
    async fn public_key(&self, id: &str) -> Answer<PublicKey> {
        let operation = format!("read the public half of KMS key {id}");
        let answer = self
            .0
            .get_public_key()
            .key_id(id)
            .send()
            .await
            .map_err(failed(operation.as_str()))?;
        // By the signing algorithms, not by the key spec, which not every KMS-compatible service reports. A curve that shares the
        // algorithm's name with P-256 is detected from the key itself.
        let algorithm = [SigningAlgorithm::EcdsaP256, SigningAlgorithm::RsaPss]
            .into_iter()
            .find(|algorithm| answer.signing_algorithms().contains(&spec(*algorithm)));
        let Some(algorithm) = algorithm else {
            return Err(CloudError::new(
                Kind::Invalid,
                operation,
                "",
                "its algorithm is not supported: its spec has to be ECC_NIST_P256 or RSA_2048 to RSA_4096, its usage SIGN_VERIFY",
            ));
        };
        let Some(der) = answer.public_key() else {
            return Err(incomplete(&operation, "public key"));
        };
        Ok(PublicKey {
            der: der.as_ref().to_vec(),
            algorithm,
        })
    }

    async fn sign(&self, id: &str, algorithm: SigningAlgorithm, message: &[u8]) -> Answer<Vec<u8>> {
        let operation = format!("sign with KMS key {id}");
        let (message, kind) = if message.len() > MOST_RAW {
            (Sha256::digest(message).to_vec(), MessageType::Digest)
        } else {
            (message.to_vec(), MessageType::Raw)
        };
        let answer = self
            .0
            .sign()
            .key_id(id)
            .message(Blob::new(message))
            .message_type(kind)
            .signing_algorithm(spec(algorithm))
            .send()
            .await
            .map_err(failed(operation.as_str()))?;
        match answer.signature {
            Some(signature) => Ok(signature.into_inner()),
            None => Err(incomplete(&operation, "signature")),
        }
    }
}
