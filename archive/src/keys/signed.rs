//! Small JSON documents that carry the writer's signature: wrapped keys and hints.

use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use ed25519_dalek::{Signature, Signer, Verifier, VerifyingKey};
use serde::de::DeserializeOwned;
use serde::{Deserialize, Serialize};

use super::error::KeyError;
use super::signing::WriterKey;

const DOMAIN: &[u8] = b"pitrd/document/v1\0";

/// A document as it is stored: its text as a string, so that what is signed is exactly what is read.
#[derive(Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct SignedDocument {
    document: String,
    signature: String,
}

impl SignedDocument {
    /// Signs `value` for the store key `object`: a document does not verify under another key.
    ///
    /// # Panics
    /// If `value` cannot be written as JSON.
    #[must_use]
    pub fn sign<T: Serialize>(object: &str, value: &T, writer: &WriterKey) -> Vec<u8> {
        let document = serde_json::to_string(value).expect("our documents are JSON");
        let signature = writer.signing().sign(&signed(object, &document));
        let stored = Self {
            document,
            signature: STANDARD.encode(signature.to_bytes()),
        };
        serde_json::to_vec_pretty(&stored).expect("two strings are JSON")
    }

    /// Verifies the stored `bytes` of `object` and reads the document.
    pub fn verify<T: DeserializeOwned>(
        object: &str,
        bytes: &[u8],
        writer: &VerifyingKey,
    ) -> Result<T, KeyError> {
        let fault = |reason| KeyError::NotSigned {
            object: object.into(),
            reason,
        };
        let stored: Self = serde_json::from_slice(bytes)
            .map_err(|_| fault("it is damaged: not a signed document"))?;
        let signature = STANDARD
            .decode(&stored.signature)
            .ok()
            .and_then(|bytes| Signature::from_slice(&bytes).ok());
        let signature =
            signature.ok_or_else(|| fault("it is damaged: its signature cannot be read"))?;
        writer
            .verify(&signed(object, &stored.document), &signature)
            .map_err(|_| {
                fault("its signature is not this archive's writer's: forged or damaged")
            })?;
        serde_json::from_str(&stored.document)
            .map_err(|_| fault("it was written by a release with another format"))
    }
}

fn signed(object: &str, document: &str) -> Vec<u8> {
    [DOMAIN, object.as_bytes(), b"\0", document.as_bytes()].concat()
}
