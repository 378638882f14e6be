//! `~/.pgpass` → the password for one host, port, database and user, by libpq's rules.

use std::fs::File;
use std::io::{self, Read};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use pitr_archive::keys::read_password_file;
use zeroize::{Zeroize, Zeroizing};

use super::ConnectError;
use super::conninfo::{ConnInfo, Host, Secret};

const FILE_BYTES_MAX: u64 = 1 << 20;
const SOCKET_DIRECTORIES: &[&str] = &["/var/run/postgresql", "/run/postgresql", "/tmp"];

/// The password for a session with `host`: that of the file with nothing else, else the one given, else the first match of the passfile.
///
/// `databases` are tried in turn; a replication session goes by the name `replication`, as it does in libpq's tools.
pub(super) fn password(
    info: &ConnInfo,
    host: &Host,
    databases: &[&str],
) -> Result<Option<Secret>, ConnectError> {
    if let Some(path) = &info.password_file {
        let line = read_password_file(path);
        let line = line.map_err(|error| ConnectError::Settings(error.to_string()))?;
        return Ok(Some(Secret::new(line.to_vec())));
    }
    if info.password.is_some() {
        return Ok(info.password.clone());
    }
    let Some(path) = &info.passfile else {
        return Ok(None);
    };
    let text = match read(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound && !info.passfile_named => {
            return Ok(None);
        }
        read => read.map_err(|error| {
            ConnectError::Settings(format!("password file {}: {error}", path.display()))
        })?,
    };
    let port = host.port.to_string();
    let mut names = Vec::new();
    match (&host.name, host.addr) {
        (Some(name), _) => names.push(name.clone()),
        (None, Some(addr)) => names.push(addr.to_string()),
        (None, None) => {}
    }
    if names
        .first()
        .is_some_and(|n| SOCKET_DIRECTORIES.contains(&n.as_str()))
    {
        names.push("localhost".into());
    }
    for database in databases {
        for name in &names {
            if let Some(found) = find_password(&text, [name, &port, database, &info.user]) {
                return Ok(Some(found));
            }
        }
    }
    Ok(None)
}

fn read(path: &Path) -> io::Result<Zeroizing<Vec<u8>>> {
    // A name that is a pipe would block for ever in open: ask first. Permissions are asked of what was opened.
    let plain = |metadata: &std::fs::Metadata| match metadata.is_file() {
        true => Ok(()),
        false => Err(io::Error::other("it is not a plain file")),
    };
    plain(&std::fs::metadata(path)?)?;
    let mut file = File::open(path)?;
    let metadata = file.metadata()?;
    plain(&metadata)?;
    if metadata.mode() & 0o077 != 0 {
        return Err(io::Error::other(format!(
            "group or others have access to it (mode {:04o}); run chmod 0600 on it",
            metadata.mode() & 0o7777
        )));
    }
    if metadata.len() > FILE_BYTES_MAX {
        return Err(io::Error::other("it is larger than 1 MiB"));
    }
    let mut text = Zeroizing::new(Vec::with_capacity(metadata.len() as usize + 1));
    file.by_ref().take(FILE_BYTES_MAX).read_to_end(&mut text)?;
    Ok(text)
}

/// The password of the first line of a passfile whose host, port, database and role match, as libpq reads it. A line with an empty password
/// does not count.
#[must_use]
pub fn find_password(text: &[u8], wanted: [&str; 4]) -> Option<Secret> {
    for line in text.split(|&b| b == b'\n') {
        let line = line.strip_suffix(b"\r").unwrap_or(line);
        if line.first() == Some(&b'#') {
            continue;
        }
        let mut rest = line;
        let mut fields = wanted.iter();
        let matched = fields.all(|want| match field(rest, want.as_bytes()) {
            Some(after) => {
                rest = after;
                true
            }
            None => false,
        });
        if matched {
            let mut password = unescape(rest);
            if password.is_empty() {
                password.zeroize();
                continue;
            }
            return Some(Secret::new(password));
        }
    }
    None
}

/// What follows the field and its colon, if the field is `*` or equals `want` once its escapes are taken away.
fn field<'a>(line: &'a [u8], want: &[u8]) -> Option<&'a [u8]> {
    if let Some(after) = line.strip_prefix(b"*:") {
        return Some(after);
    }
    let (mut at, mut want) = (0, want.iter());
    loop {
        match (line.get(at)?, line.get(at + 1)) {
            (b':', _) => return want.next().is_none().then(|| &line[at + 1..]),
            (b'\\', Some(escaped)) => {
                at += 2;
                (want.next() == Some(escaped)).then_some(())?;
            }
            (plain, _) => {
                at += 1;
                (want.next() == Some(plain)).then_some(())?;
            }
        }
    }
}

fn unescape(text: &[u8]) -> Vec<u8> {
    let mut password = Vec::with_capacity(text.len());
    let mut bytes = text.iter();
    while let Some(&byte) = bytes.next() {
        match byte {
            b'\\' => password.push(bytes.next().copied().unwrap_or(b'\\')),
            byte => password.push(byte),
        }
    }
    password
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::fs;
    use std::os::unix::fs::PermissionsExt;

    fn found(text: &str, wanted: [&str; 4]) -> Option<String> {
        find_password(text.as_bytes(), wanted)
            .map(|s| String::from_utf8_lossy(s.bytes()).into_owned())
    }

    #[test]
    fn the_first_matching_line_wins() {
        let file = "# comment\nother:*:*:*:no\n*:5432:db:u:first\r\n*:*:*:*:second\n";
        assert_eq!(
            found(file, ["h", "5432", "db", "u"]).as_deref(),
            Some("first")
        );
        assert_eq!(
            found(file, ["h", "5433", "db", "u"]).as_deref(),
            Some("second")
        );
        assert_eq!(found("h:1:d:u", ["h", "1", "d", "u"]), None);
        assert_eq!(found("h:1:d:u:", ["h", "1", "d", "u"]), None);
        assert_eq!(found("hh:1:d:u:x", ["h", "1", "d", "u"]), None);
        assert_eq!(found("h:1:d:u:x", ["hh", "1", "d", "u"]), None);
        assert_eq!(found("*h:1:d:u:x", ["h", "1", "d", "u"]), None);
    }

    #[test]
    fn escapes_are_libpq_s() {
        let file = r"\:\:1:5432:d\\b:u:p\:a\\ss\";
        assert_eq!(
            found(file, ["::1", "5432", r"d\b", "u"]).as_deref(),
            Some(r"p:a\ss\")
        );
        assert_eq!(found("::1:5432:d:u:x", ["::1", "5432", "d", "u"]), None);
    }

    fn file_of_mode(mode: u32) -> (tempfile::TempDir, ConnInfo) {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        fs::write(&path, "localhost:*:replication:u:secret-word\n").unwrap();
        fs::set_permissions(&path, fs::Permissions::from_mode(mode)).unwrap();
        let text = format!("host=/tmp user=u passfile={}", path.display());
        let info = ConnInfo::parse_with(&text, &|_| None).unwrap();
        (directory, info)
    }

    #[test]
    fn a_socket_in_the_usual_place_is_localhost() {
        let (_directory, info) = file_of_mode(0o600);
        let found = password(&info, &info.hosts[0], &["replication", "u"]).unwrap();
        assert_eq!(found, Some(Secret::new(b"secret-word".to_vec())));
        assert_eq!(password(&info, &info.hosts[0], &["db"]).unwrap(), None);
    }

    #[test]
    fn a_file_that_others_can_read_is_refused_without_showing_it() {
        for mode in [0o640, 0o604, 0o660] {
            let (_directory, info) = file_of_mode(mode);
            let error = password(&info, &info.hosts[0], &["replication"])
                .unwrap_err()
                .to_string();
            assert!(
                error.contains("chmod 0600") && !error.contains("secret-word"),
                "{error}"
            );
        }
    }

    #[test]
    fn the_password_file_is_read_for_every_connection() {
        let (directory, mut info) = file_of_mode(0o600);
        let path = directory.path().join("password");
        info.set_password_file(path.clone());
        for word in ["first", "second"] {
            fs::write(&path, format!("{word}\n")).unwrap();
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).unwrap();
            let found = password(&info, &info.hosts[0], &["replication"]).unwrap();
            assert_eq!(found, Some(Secret::new(word.into())));
        }
        fs::remove_file(&path).unwrap();
        let error = password(&info, &info.hosts[0], &["replication"]).unwrap_err();
        assert!(error.to_string().contains("password file"), "{error}");
    }

    #[test]
    fn only_a_named_file_has_to_exist() {
        let mut info =
            ConnInfo::parse_with("user=u host=h passfile=/nonexistent/x", &|_| None).unwrap();
        assert!(password(&info, &info.hosts[0], &["db"]).is_err());
        info.passfile_named = false;
        assert_eq!(password(&info, &info.hosts[0], &["db"]).unwrap(), None);
        info.passfile = Some("/dev/null".into());
        assert!(password(&info, &info.hosts[0], &["db"]).is_err());
    }

    proptest! {
        #[test]
        fn what_is_escaped_is_found(fields in proptest::array::uniform5("[^\\n\\r]{1,12}")) {
            let escape = |text: &String| text.replace('\\', r"\\").replace(':', r"\:");
            let line: Vec<_> = fields.iter().map(escape).collect();
            let line = line.join(":");
            prop_assume!(!line.starts_with('#'));
            let wanted = [&*fields[0], &*fields[1], &*fields[2], &*fields[3]];
            prop_assert_eq!(found(&line, wanted), Some(fields[4].clone()));
        }

        #[test]
        fn no_file_panics(text in proptest::collection::vec(proptest::sample::select(&b":\\*#\n\rab"[..]), 0..60)) {
            let _ = find_password(&text, ["a", "b", "a", "b"]);
        }
    }
}
