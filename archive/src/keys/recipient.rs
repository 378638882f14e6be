//! Whom data keys are wrapped for.

use std::fmt;
use std::str::FromStr;

use super::error::KeyError;
use super::identity::KeyFile;
use super::secret_file;
use super::wrap::{self, Wrap};

const PREFIX: &str = "x25519:";

/// A public key. Who holds only this can write and not read.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Recipient([u8; 32]);

impl Recipient {
    pub(super) fn new(public: [u8; 32]) -> Self {
        Self(public)
    }
}

impl fmt::Display for Recipient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{PREFIX}{}", secret_file::encode(&self.0))
    }
}

impl FromStr for Recipient {
    type Err = KeyError;

    /// Reads `x25519:` and 48 letters. The checksum in them catches typing errors: any 32 bytes are a valid public
    /// key, and data sealed for a key that nobody holds is lost.
    fn from_str(text: &str) -> Result<Self, KeyError> {
        let malformed = |reason| KeyError::Malformed {
            what: format!("recipient {text:?}"),
            reason,
        };
        let encoded = text.strip_prefix(PREFIX).ok_or_else(|| {
            malformed("it does not begin with x25519: (pitr-tool keygen prints a recipient)")
        })?;
        let public = *secret_file::decode(encoded).map_err(malformed)?;
        if wrap::hpke_accepts(&public) {
            Ok(Self(public))
        } else {
            Err(malformed("it is not a usable X25519 key"))
        }
    }
}

/// What data keys can be wrapped with.
#[derive(Clone, Debug)]
pub enum Wrapper {
    /// For the holder of an identity.
    Recipient(Recipient),
    /// Under a key file, which also reads.
    KeyFile(KeyFile),
}

impl Wrapper {
    pub(crate) fn wrap(&self, secret: &[u8; 32], context: &[u8]) -> Wrap {
        match self {
            Self::Recipient(recipient) => {
                wrap::hpke_seal(recipient.to_string(), &recipient.0, secret, context)
            }
            Self::KeyFile(file) => {
                wrap::file_seal(file.fingerprint(), file.secret(), secret, context)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::Identity;
    use super::*;

    #[test]
    fn a_mistyped_recipient_is_refused() {
        let text = Identity::generate().recipient().to_string();
        assert!(text.parse::<Recipient>().is_ok());
        for position in PREFIX.len()..text.len() {
            let mut wrong = text.clone().into_bytes();
            wrong[position] = if wrong[position] == b'A' { b'B' } else { b'A' };
            let wrong = String::from_utf8(wrong).unwrap();
            assert!(wrong.parse::<Recipient>().is_err(), "{wrong}");
        }
        assert!(text[..text.len() - 1].parse::<Recipient>().is_err());
    }

    #[test]
    fn a_key_of_small_order_is_refused() {
        let zero = format!("{PREFIX}{}", secret_file::encode(&[0; 32]));
        assert!(zero.parse::<Recipient>().is_err());
    }
}
