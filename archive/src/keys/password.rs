//! Password files: one line with a source's password. They are read whenever a session begins, so that a password can be changed while a
//! daemon runs.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};

use zeroize::Zeroizing;

use super::secret_file::is_private;

/// What is longer is a wrong file.
const PASSWORD_BYTES_MAX: usize = 4096;

/// A password file that cannot be used. Never quotes it.
#[derive(Debug, thiserror::Error)]
pub enum PasswordFileError {
    /// It cannot be read.
    #[error("password file {path}: {source}")]
    Read {
        /// Which one.
        path: PathBuf,
        /// Why.
        source: io::Error,
    },
    /// Others can read it.
    #[error("password file {path} can be read by others (mode {mode:03o}); run: chmod 600 {path}")]
    Exposed {
        /// Which one.
        path: PathBuf,
        /// Its permission bits.
        mode: u32,
    },
    /// It holds something else.
    #[error(
        "password file {path} does not hold one line with a password; write the password, and nothing else, into it"
    )]
    Malformed {
        /// Which one.
        path: PathBuf,
    },
}

/// The one line of a file that only its owner can read, without what ends it.
///
/// # Errors
/// [`PasswordFileError`], which names the file.
pub fn read_password_file(path: &Path) -> Result<Zeroizing<Vec<u8>>, PasswordFileError> {
    let failed = |source| PasswordFileError::Read {
        path: path.into(),
        source,
    };
    let file = File::open(path).map_err(failed)?;
    let mode = file.metadata().map_err(failed)?.mode() & 0o777;
    if !is_private(path, mode) {
        return Err(PasswordFileError::Exposed {
            path: path.into(),
            mode,
        });
    }
    // Room for more than is read: a buffer that grows leaves copies.
    let mut text = Zeroizing::new(Vec::with_capacity(2 * PASSWORD_BYTES_MAX));
    file.take(PASSWORD_BYTES_MAX as u64 + 3)
        .read_to_end(&mut text)
        .map_err(failed)?;
    let line = text.strip_suffix(b"\n").unwrap_or(&text);
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    let is_one = !line.is_empty() && line.len() <= PASSWORD_BYTES_MAX;
    if !is_one || line.contains(&b'\n') || line.contains(&0) {
        return Err(PasswordFileError::Malformed { path: path.into() });
    }
    Ok(Zeroizing::new(line.to_vec()))
}

#[cfg(test)]
mod tests {
    use std::fs::{self, Permissions};
    use std::os::unix::fs::PermissionsExt;

    use super::*;

    fn read(text: &[u8], mode: u32) -> Result<Vec<u8>, PasswordFileError> {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("password");
        fs::write(&path, text).unwrap();
        fs::set_permissions(&path, Permissions::from_mode(mode)).unwrap();
        read_password_file(&path).map(|line| line.to_vec())
    }

    #[test]
    fn a_password_is_the_one_line_of_its_file() {
        for text in [b"p w".as_slice(), b"p w\n", b"p w\r\n"] {
            assert_eq!(read(text, 0o600).unwrap(), b"p w");
        }
        let longest = vec![b'x'; PASSWORD_BYTES_MAX];
        let ended = [&longest, b"\r\n".as_slice()].concat();
        assert_eq!(read(&ended, 0o400).unwrap(), longest);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_with_the_remedy() {
        for mode in [0o640, 0o604, 0o620] {
            let error = read(b"canary\n", mode).unwrap_err().to_string();
            assert!(
                error.contains("run: chmod 600 ") && !error.contains("canary"),
                "{error}"
            );
        }
    }

    #[test]
    fn a_file_that_is_no_password_is_refused_without_quoting_it() {
        let long = vec![b'x'; PASSWORD_BYTES_MAX + 1];
        for text in [b"".as_slice(), b"\n", b"canary\ntwo", b"canary\0", &long] {
            let error = read(text, 0o600).unwrap_err();
            assert!(
                matches!(error, PasswordFileError::Malformed { .. }),
                "{error}"
            );
            assert!(!error.to_string().contains("canary"), "{error}");
        }
    }
}
