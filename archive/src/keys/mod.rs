//! Keys: data keys seal objects, recipients wrap data keys, a signing key says who wrote.
//!
//! The daemon's host holds recipients (public) and the signing key; who restores holds an identity. Where one key file
//! serves both ends, the host can read as well as write.

mod data_key;
mod error;
mod identity;
mod password;
mod recipient;
mod secret_file;
mod signed;
mod signing;
mod wrap;

pub use data_key::{DataKey, WrappedDataKey};
pub use error::KeyError;
pub use identity::{Identity, KeyFile, Opener};
pub use password::{PasswordFileError, read_password_file};
pub use recipient::{Recipient, Wrapper};
pub use signed::SignedDocument;
pub(crate) use signing::WrappedWriterKey;
pub use signing::WriterKey;
