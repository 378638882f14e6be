//! Files that hold secrets: made with mode 0600, refused when others can read them.

use std::fs::{File, OpenOptions};
use std::io::{Read, Write};
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::path::Path;

use base64::Engine;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use zeroize::Zeroizing;

use super::error::KeyError;

const CHECKSUM_BYTES: usize = 4;

/// Writes `text` into a new file that only its owner can read, and makes it durable. Refuses to replace a file.
pub(super) fn create(path: &Path, text: &str) -> Result<(), KeyError> {
    let file_error = |source| KeyError::File {
        path: path.into(),
        source,
    };
    let mut file = OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(0o600)
        .open(path)
        .map_err(file_error)?;
    file.write_all(text.as_bytes())
        .and_then(|()| file.sync_all())
        .map_err(file_error)?;
    let parent = path
        .parent()
        .filter(|parent| !parent.as_os_str().is_empty())
        .unwrap_or(Path::new("."));
    File::open(parent)
        .and_then(|parent| parent.sync_all())
        .map_err(file_error)
}

/// Whether only its owner can read a file of this mode. A systemd credential is private as well although its group bits are
/// set: they are the mask of an access list that names the service's account, in a directory that only it can enter.
pub(super) fn is_private(path: &Path, mode: u32) -> bool {
    let credentials = std::env::var_os("CREDENTIALS_DIRECTORY").filter(|name| !name.is_empty());
    is_private_in(credentials.as_deref().map(Path::new), path, mode)
}

fn is_private_in(credentials: Option<&Path>, path: &Path, mode: u32) -> bool {
    let is_credential = credentials.is_some_and(|directory| path.starts_with(directory));
    mode & 0o077 == 0 || is_credential && mode & 0o037 == 0
}

/// Reads a file of at most 64 KiB that only its owner can read.
pub(super) fn read(path: &Path) -> Result<Zeroizing<Vec<u8>>, KeyError> {
    let file_error = |source| KeyError::File {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(file_error)?;
    let mode = file.metadata().map_err(file_error)?.mode() & 0o777;
    if !is_private(path, mode) {
        return Err(KeyError::Exposed {
            path: path.into(),
            mode,
        });
    }
    let mut bytes = Zeroizing::new(Vec::with_capacity(1 << 16));
    file.take(1 << 16)
        .read_to_end(&mut bytes)
        .map_err(file_error)?;
    Ok(bytes)
}

/// Finds the one line of the file that begins with `tag` and reads the 32 bytes behind it.
pub(super) fn read_tagged(path: &Path, tag: &'static str) -> Result<Zeroizing<[u8; 32]>, KeyError> {
    let bytes = read(path)?;
    let malformed = |reason| KeyError::Malformed {
        what: format!("key file {}", path.display()),
        reason,
    };
    let text = std::str::from_utf8(&bytes).map_err(|_| malformed("it is not text"))?;
    let mut lines = text
        .lines()
        .filter_map(|line| line.trim().strip_prefix(tag));
    let line = lines
        .next()
        .ok_or_else(|| malformed("it does not hold a key of the kind needed here"))?;
    if lines.next().is_some() {
        return Err(malformed("it holds more than one key"));
    }
    decode(line).map_err(malformed)
}

/// 32 bytes and a checksum over them, in base64url.
pub(super) fn encode(key: &[u8; 32]) -> String {
    let mut bytes = Zeroizing::new([0; 32 + CHECKSUM_BYTES]);
    bytes[..32].copy_from_slice(key);
    bytes[32..].copy_from_slice(&checksum(key));
    URL_SAFE_NO_PAD.encode(bytes.as_slice())
}

/// The inverse of [`encode`]; a typing error fails at the checksum.
pub(super) fn decode(text: &str) -> Result<Zeroizing<[u8; 32]>, &'static str> {
    let bytes = URL_SAFE_NO_PAD
        .decode(text)
        .map(Zeroizing::new)
        .map_err(|_| "it is not base64url")?;
    if bytes.len() != 32 + CHECKSUM_BYTES {
        return Err("it has the wrong length: part of it is missing, or there is too much");
    }
    let key = Zeroizing::new(<[u8; 32]>::try_from(&bytes[..32]).expect("32 bytes"));
    if checksum(&key) == bytes[32..] {
        Ok(key)
    } else {
        Err("its checksum does not match: it was mistyped")
    }
}

fn checksum(key: &[u8; 32]) -> [u8; CHECKSUM_BYTES] {
    let hash = blake3::derive_key("pitrd 2026 key checksum v1", key);
    hash[..CHECKSUM_BYTES].try_into().expect("4 bytes")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_a_credential_may_have_the_group_bit_of_an_access_list() {
        let directory = Path::new("/run/credentials/pitrd@orders.service");
        let credential = directory.join("signing-key");
        assert!(is_private_in(Some(directory), &credential, 0o440));
        assert!(!is_private_in(Some(directory), &credential, 0o444));
        assert!(!is_private_in(
            Some(directory),
            Path::new("/etc/pitrd/key"),
            0o440
        ));
        assert!(!is_private_in(None, &credential, 0o440));
        assert!(is_private_in(None, Path::new("/etc/pitrd/key"), 0o600));
    }
}
