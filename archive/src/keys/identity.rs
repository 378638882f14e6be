//! What opens: an identity (the secret half of a recipient) or a key file.

use std::path::Path;

use zeroize::Zeroizing;

use super::error::KeyError;
use super::recipient::Recipient;
use super::secret_file;
use super::wrap::{self, Wrap};

const IDENTITY_TAG: &str = "PITRD-IDENTITY-X25519:";
const KEY_FILE_TAG: &str = "PITRD-KEY-FILE:";

/// The secret half of a recipient.
#[derive(Clone)]
pub struct Identity(Zeroizing<[u8; 32]>);

/// A symmetric key: wraps and unwraps.
#[derive(Clone)]
pub struct KeyFile(Zeroizing<[u8; 32]>);

fn random_secret() -> Zeroizing<[u8; 32]> {
    let mut secret = Zeroizing::new([0; 32]);
    getrandom::fill(secret.as_mut_slice()).expect("the operating system gives random bytes");
    secret
}

fn file_text(comment: &str, tag: &str, secret: &[u8; 32]) -> Zeroizing<String> {
    let created = jiff::Timestamp::now()
        .round(jiff::Unit::Second)
        .unwrap_or_else(|_| jiff::Timestamp::now());
    Zeroizing::new(format!(
        "# created: {created}\n{comment}{tag}{}\n",
        secret_file::encode(secret)
    ))
}

impl Identity {
    /// A new random identity.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_secret())
    }

    /// Its public half.
    #[must_use]
    pub fn recipient(&self) -> Recipient {
        Recipient::new(wrap::hpke_public(&self.0))
    }

    /// Writes it into a new file with mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        let comment = format!("# recipient: {}\n", self.recipient());
        secret_file::create(path, &file_text(&comment, IDENTITY_TAG, &self.0))
    }

    /// Reads a file that [`Self::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        secret_file::read_tagged(path, IDENTITY_TAG).map(Self)
    }
}

impl KeyFile {
    /// A new random key.
    ///
    /// # Panics
    /// If the operating system has no randomness to give.
    #[must_use]
    pub fn generate() -> Self {
        Self(random_secret())
    }

    /// Writes it into a new file with mode 0600.
    pub fn save(&self, path: &Path) -> Result<(), KeyError> {
        secret_file::create(path, &file_text("", KEY_FILE_TAG, &self.0))
    }

    /// Reads a file that [`Self::save`] wrote.
    pub fn load(path: &Path) -> Result<Self, KeyError> {
        secret_file::read_tagged(path, KEY_FILE_TAG).map(Self)
    }

    /// Names the key without telling it.
    #[must_use]
    pub fn fingerprint(&self) -> String {
        let hash = blake3::derive_key("pitrd 2026 key file fingerprint v1", self.0.as_slice());
        hash[..8].iter().map(|byte| format!("{byte:02x}")).collect()
    }

    pub(super) fn secret(&self) -> &[u8; 32] {
        &self.0
    }
}

/// What the caller holds to open with.
#[derive(Clone, Debug)]
pub enum Opener {
    /// The secret half of a recipient.
    Identity(Identity),
    /// A symmetric key.
    KeyFile(KeyFile),
}

impl Opener {
    /// How messages name it; nothing secret.
    #[must_use]
    pub fn describe(&self) -> String {
        match self {
            Self::Identity(identity) => format!("identity of {}", identity.recipient()),
            Self::KeyFile(file) => format!("key file {}", file.fingerprint()),
        }
    }

    pub(crate) fn unwrap(
        &self,
        object: &str,
        wraps: &[Wrap],
        context: &[u8],
    ) -> Result<Zeroizing<[u8; 32]>, KeyError> {
        let ours = wraps
            .iter()
            .find(|wrap| self.is_for_us(wrap))
            .ok_or_else(|| KeyError::NotForUs {
                object: object.into(),
                wrapped_for: wraps
                    .iter()
                    .map(Wrap::recipient)
                    .collect::<Vec<_>>()
                    .join(", "),
                offered: self.describe(),
            })?;
        let secret = match (self, ours) {
            (
                Self::Identity(identity),
                Wrap::HpkeX25519 {
                    encapsulated,
                    ciphertext,
                    ..
                },
            ) => wrap::hpke_open(&identity.0, encapsulated, ciphertext, context),
            (
                Self::KeyFile(file),
                Wrap::KeyFile {
                    nonce, ciphertext, ..
                },
            ) => wrap::file_open(&file.0, nonce, ciphertext, context),
            _ => None,
        };
        secret.ok_or_else(|| KeyError::Damaged {
            object: object.into(),
            offered: self.describe(),
        })
    }

    fn is_for_us(&self, wrap: &Wrap) -> bool {
        match (self, wrap) {
            (Self::Identity(identity), Wrap::HpkeX25519 { recipient, .. }) => {
                *recipient == identity.recipient().to_string()
            }
            (Self::KeyFile(file), Wrap::KeyFile { fingerprint, .. }) => {
                *fingerprint == file.fingerprint()
            }
            _ => false,
        }
    }
}

impl std::fmt::Debug for Identity {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Identity({})", self.recipient())
    }
}

impl std::fmt::Debug for KeyFile {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "KeyFile({})", self.fingerprint())
    }
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt;

    use super::*;
    use crate::keys::{DataKey, Wrapper};
    use crate::object::Id;

    #[test]
    fn only_the_holder_of_a_wrap_opens_it_and_the_others_hear_wrong_key() {
        let (ours, theirs, file) = (
            Identity::generate(),
            Identity::generate(),
            KeyFile::generate(),
        );
        let wrappers = [
            Wrapper::Recipient(ours.recipient()),
            Wrapper::KeyFile(file.clone()),
        ];
        let (archive, key) = (Id::random(), DataKey::generate());
        let wrapped = key.wrap(archive, &wrappers);
        for opener in [Opener::Identity(ours), Opener::KeyFile(file)] {
            let found = wrapped
                .unwrap("keys/x", archive, key.id(), &opener)
                .unwrap();
            assert_eq!(found.secret(), key.secret());
        }
        for opener in [
            Opener::Identity(theirs),
            Opener::KeyFile(KeyFile::generate()),
        ] {
            let error = wrapped
                .unwrap("keys/x", archive, key.id(), &opener)
                .unwrap_err();
            assert!(matches!(error, KeyError::NotForUs { .. }), "{error}");
        }
    }

    #[test]
    fn a_file_that_others_can_read_is_refused() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("identity");
        let identity = Identity::generate();
        identity.save(&path).unwrap();
        assert_eq!(
            Identity::load(&path).unwrap().recipient(),
            identity.recipient()
        );
        assert!(
            identity.save(&path).is_err(),
            "an identity is never overwritten"
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o640)).unwrap();
        assert!(matches!(
            Identity::load(&path),
            Err(KeyError::Exposed { mode: 0o640, .. })
        ));
    }
}
