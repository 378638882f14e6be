//! One wrap: 32 secret bytes encrypted for one recipient or one key file.

use aes_gcm::aead::{Aead, KeyInit, Payload};
use aes_gcm::{Aes256Gcm, Nonce};
use base64::Engine;
use base64::engine::general_purpose::STANDARD;
use hpke::aead::AesGcm256;
use hpke::kdf::HkdfSha256;
use hpke::kem::X25519HkdfSha256;
use hpke::{Deserializable, Kem, OpModeR, OpModeS, Serializable};
use serde::{Deserialize, Serialize};
use zeroize::Zeroizing;

const INFO: &[u8] = b"pitrd/wrap/v1";

/// As it stands in JSON; `method` decides which of the fields mean what.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "method", rename_all = "kebab-case", deny_unknown_fields)]
pub(crate) enum Wrap {
    /// HPKE base mode: DHKEM(X25519, HKDF-SHA256), HKDF-SHA256, AES-256-GCM.
    HpkeX25519 {
        /// Whom it is for.
        recipient: String,
        /// Encapsulated key, base64.
        encapsulated: String,
        /// Ciphertext and tag, base64.
        ciphertext: String,
    },
    /// AES-256-GCM under a key derived from a key file.
    KeyFile {
        /// Which key file: a fingerprint.
        fingerprint: String,
        /// 12 bytes, base64.
        nonce: String,
        /// Ciphertext and tag, base64.
        ciphertext: String,
    },
}

impl Wrap {
    /// Whom the wrap is for, as messages say it.
    pub(crate) fn recipient(&self) -> String {
        match self {
            Self::HpkeX25519 { recipient, .. } => recipient.clone(),
            Self::KeyFile { fingerprint, .. } => format!("key file {fingerprint}"),
        }
    }
}

type PublicKey = <X25519HkdfSha256 as Kem>::PublicKey;
type PrivateKey = <X25519HkdfSha256 as Kem>::PrivateKey;

/// HPKE seal for a public key. `context` is authenticated.
pub(super) fn hpke_seal(
    recipient: String,
    public: &[u8; 32],
    secret: &[u8; 32],
    context: &[u8],
) -> Wrap {
    let public = PublicKey::from_bytes(public).expect("a recipient is checked when it is parsed");
    let (encapsulated, ciphertext) = hpke::single_shot_seal::<
        AesGcm256,
        HkdfSha256,
        X25519HkdfSha256,
    >(&OpModeS::Base, &public, INFO, secret, context)
    .expect("a recipient is checked when it is parsed");
    Wrap::HpkeX25519 {
        recipient,
        encapsulated: STANDARD.encode(encapsulated.to_bytes()),
        ciphertext: STANDARD.encode(ciphertext),
    }
}

/// True if HPKE can seal for this public key: it is not one of the few of small order.
pub(super) fn hpke_accepts(public: &[u8; 32]) -> bool {
    PublicKey::from_bytes(public).is_ok_and(|public| {
        hpke::single_shot_seal::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
            &OpModeS::Base,
            &public,
            INFO,
            &[],
            &[],
        )
        .is_ok()
    })
}

/// HPKE open. `None` if it does not authenticate.
pub(super) fn hpke_open(
    private: &[u8; 32],
    encapsulated: &str,
    ciphertext: &str,
    context: &[u8],
) -> Option<Zeroizing<[u8; 32]>> {
    let private = PrivateKey::from_bytes(private).ok()?;
    let encapsulated = STANDARD.decode(encapsulated).ok()?;
    let encapsulated = <X25519HkdfSha256 as Kem>::EncappedKey::from_bytes(&encapsulated).ok()?;
    let ciphertext = STANDARD.decode(ciphertext).ok()?;
    let secret = hpke::single_shot_open::<AesGcm256, HkdfSha256, X25519HkdfSha256>(
        &OpModeR::Base,
        &private,
        &encapsulated,
        INFO,
        &ciphertext,
        context,
    );
    to_secret(Zeroizing::new(secret.ok()?))
}

/// The public half of an X25519 secret.
pub(super) fn hpke_public(private: &[u8; 32]) -> [u8; 32] {
    let private = PrivateKey::from_bytes(private).expect("any 32 bytes are an X25519 secret");
    X25519HkdfSha256::sk_to_pk(&private).to_bytes().into()
}

/// Seals under a key file's key.
pub(super) fn file_seal(
    fingerprint: String,
    key: &[u8; 32],
    secret: &[u8; 32],
    context: &[u8],
) -> Wrap {
    let mut nonce = [0; 12];
    getrandom::fill(&mut nonce).expect("the operating system gives random bytes");
    let payload = Payload {
        msg: secret,
        aad: context,
    };
    let ciphertext = file_cipher(key)
        .encrypt(&Nonce::from(nonce), payload)
        .expect("32 bytes are few");
    Wrap::KeyFile {
        fingerprint,
        nonce: STANDARD.encode(nonce),
        ciphertext: STANDARD.encode(ciphertext),
    }
}

/// Opens under a key file's key. `None` if it does not authenticate.
pub(super) fn file_open(
    key: &[u8; 32],
    nonce: &str,
    ciphertext: &str,
    context: &[u8],
) -> Option<Zeroizing<[u8; 32]>> {
    let nonce = <[u8; 12]>::try_from(STANDARD.decode(nonce).ok()?).ok()?;
    let ciphertext = STANDARD.decode(ciphertext).ok()?;
    let payload = Payload {
        msg: &ciphertext,
        aad: context,
    };
    let secret = file_cipher(key)
        .decrypt(&Nonce::from(nonce), payload)
        .ok()?;
    to_secret(Zeroizing::new(secret))
}

fn file_cipher(key: &[u8; 32]) -> Aes256Gcm {
    let derived = Zeroizing::new(blake3::derive_key("pitrd 2026 key file wrapping v1", key));
    Aes256Gcm::new_from_slice(derived.as_slice()).expect("32 bytes are an AES-256 key")
}

fn to_secret(bytes: Zeroizing<Vec<u8>>) -> Option<Zeroizing<[u8; 32]>> {
    <[u8; 32]>::try_from(bytes.as_slice())
        .ok()
        .map(Zeroizing::new)
}
