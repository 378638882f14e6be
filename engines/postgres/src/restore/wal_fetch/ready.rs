//! WAL files that lie ready beside `pg_wal`'s: what the prefetcher left, the foreground takes by a rename. No key and no archive
//! are needed for that.
//!
//! In `pg_wal/pitrd.prefetch/`: `<segment>` is complete; `<segment>.part` is being written; `asked` holds the last segment that the
//! server was given; `window` the first and last that are being made ready; `place` says from which archive; `lock` is held by the
//! prefetcher that is running.

use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt};
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};

const DIRECTORY: &str = "pitrd.prefetch";
const PG_WAL: &str = "pg_wal";
const ASKED: &str = "asked";
const WINDOW: &str = "window";
const PLACE: &str = "place";
const LOCK: &str = "lock";
/// End of the name of a file that is being written.
pub(super) const PART: &str = ".part";

/// The directory of files that are ready.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Ready {
    path: PathBuf,
}

/// Proof that this process is the prefetcher of its directory, for as long as it is held.
#[derive(Debug)]
pub struct Running {
    _lock: File,
}

impl Ready {
    /// The directory for a server that wants its files at `path`; `None` if that is not in a `pg_wal`, so that nobody would take
    /// what is made ready.
    #[must_use]
    pub fn beside(path: &Path) -> Option<Self> {
        let parent = path.parent()?;
        let in_pg_wal = parent.file_name().is_some_and(|name| name == PG_WAL);
        in_pg_wal.then(|| Self::in_directory(parent))
    }

    /// The directory below `pg_wal`.
    #[must_use]
    pub fn in_directory(pg_wal: &Path) -> Self {
        Self {
            path: pg_wal.join(DIRECTORY),
        }
    }

    /// Where it is.
    #[must_use]
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Gives the server the segment `name` at `to` if it is ready and from the archive that `place` names.
    pub fn take(&self, name: &str, to: &Path, place: &str) -> bool {
        // What lies here is trusted for its name alone: a name with a slash would be another file.
        let plain = !name.contains(['/', '.']);
        plain && self.is_from(place) && fs::rename(self.path.join(name), to).is_ok()
    }

    /// Tells the prefetcher that the server has got `name`. Makes the directory if need be, and empties it if it is for another
    /// archive than `place`.
    pub fn note(&self, name: &str, place: &str) -> io::Result<()> {
        match fs::DirBuilder::new().mode(0o700).create(&self.path) {
            Err(error) if error.kind() != io::ErrorKind::AlreadyExists => return Err(error),
            _ => {}
        }
        if !self.is_from(place) {
            for entry in fs::read_dir(&self.path)? {
                let entry = entry?;
                if entry.file_name() != LOCK {
                    fs::remove_file(entry.path())?;
                }
            }
            self.replace(PLACE, place)?;
        }
        self.overwrite(ASKED, name)
    }

    /// Whether what lies here is from the archive that `place` names.
    pub(super) fn is_from(&self, place: &str) -> bool {
        self.place().is_ok_and(|found| found == place)
    }

    /// From which archive it is.
    pub(super) fn place(&self) -> io::Result<String> {
        fs::read_to_string(self.path.join(PLACE))
    }

    fn replace(&self, name: &str, text: &str) -> io::Result<()> {
        let new = self.path.join(format!("{name}.{}.new", std::process::id()));
        let mut options = fs::OpenOptions::new();
        let mut file = options
            .write(true)
            .create(true)
            .truncate(true)
            .mode(0o600)
            .open(&new)?;
        file.write_all(text.as_bytes())?;
        fs::rename(&new, self.path.join(name))
    }

    /// The same for a text that is always as long: where it lies, which costs a recovery less than a new file each time. Whoever reads
    /// half of it looks again soon, or fetches what would have been ready.
    fn overwrite(&self, name: &str, text: &str) -> io::Result<()> {
        match fs::OpenOptions::new()
            .write(true)
            .open(self.path.join(name))
        {
            Err(error) if error.kind() == io::ErrorKind::NotFound => self.replace(name, text),
            file => file?.write_all(text.as_bytes()),
        }
    }

    /// The last segment that the server got.
    pub(super) fn asked(&self) -> io::Result<String> {
        fs::read_to_string(self.path.join(ASKED))
    }

    /// Says which segments, by name, are being made ready.
    pub(super) fn announce(&self, first: &str, last: &str) -> io::Result<()> {
        self.overwrite(WINDOW, &format!("{first} {last}"))
    }

    /// Whether a running prefetcher will have `name` ready before long.
    #[must_use]
    pub fn is_coming(&self, name: &str) -> bool {
        let window = fs::read_to_string(self.path.join(WINDOW)).unwrap_or_default();
        let inside = window.split_once(' ').is_some_and(|(first, last)| {
            first.len() == name.len() && first <= name && name <= last
        });
        inside && self.is_running()
    }

    /// Whether a prefetcher runs.
    #[must_use]
    pub fn is_running(&self) -> bool {
        File::open(self.path.join(LOCK))
            .is_ok_and(|lock| flock(&lock, FlockOperation::NonBlockingLockShared).is_err())
    }

    /// Becomes the prefetcher; `None` if another one runs.
    pub fn run(&self) -> io::Result<Option<Running>> {
        let mut options = fs::OpenOptions::new();
        let options = options.write(true).create(true).truncate(false).mode(0o600);
        let lock = options.open(self.path.join(LOCK))?;
        match flock(&lock, FlockOperation::NonBlockingLockExclusive) {
            Ok(()) => Ok(Some(Running { _lock: lock })),
            Err(rustix::io::Errno::WOULDBLOCK) => Ok(None),
            Err(error) => Err(error.into()),
        }
    }

    /// Removes files that a server which asks for `names` will not take any more.
    pub(super) fn keep_only(&self, keep: impl Fn(&str) -> bool) -> io::Result<()> {
        for entry in fs::read_dir(&self.path)? {
            let entry = entry?;
            let name = entry.file_name();
            let name = name.to_string_lossy();
            let segment = name.strip_suffix(PART).unwrap_or(&name);
            let is_segment = segment.len() == 24 && segment.bytes().all(|b| b.is_ascii_hexdigit());
            if is_segment && (name.ends_with(PART) || !keep(segment)) {
                fs::remove_file(entry.path())?;
            }
        }
        Ok(())
    }

    /// Leaves word of why nothing is fetched ahead any more, for whoever looks.
    pub fn leave_word(&self, text: &str) {
        // The directory is gone when recovery is over.
        let _ = self.replace("failed", text);
    }

    /// Takes the directory away: recovery is over. A prefetcher that runs notices and ends.
    pub fn remove(&self) -> io::Result<()> {
        // The prefetcher may be writing a file into it at the same time.
        for _ in 0..10 {
            match fs::remove_dir_all(&self.path) {
                Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(()),
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty => {}
                other => return other,
            }
        }
        fs::remove_dir_all(&self.path)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NAME: &str = "000000010000000000000003";

    fn scratch() -> (tempfile::TempDir, Ready) {
        let scratch = tempfile::tempdir().unwrap();
        let pg_wal = scratch.path().join(PG_WAL);
        fs::create_dir(&pg_wal).unwrap();
        let ready = Ready::beside(&pg_wal.join("RECOVERYXLOG")).unwrap();
        (scratch, ready)
    }

    #[test]
    fn only_a_server_s_pg_wal_is_served_ahead() {
        assert!(Ready::beside(Path::new("pg_wal/RECOVERYXLOG")).is_some());
        assert!(Ready::beside(Path::new("/tmp/fetched")).is_none());
    }

    #[test]
    fn a_ready_file_is_taken_once_and_only_for_its_archive() {
        let (scratch, ready) = scratch();
        ready.note("000000010000000000000002", "here").unwrap();
        fs::write(ready.path().join(NAME), "wal").unwrap();
        let to = scratch.path().join("to");
        assert!(!ready.take(NAME, &to, "elsewhere"));
        assert!(!ready.take("../pitrd.prefetch/asked", &to, "here"));
        assert!(ready.take(NAME, &to, "here"));
        assert!(!ready.take(NAME, &to, "here"));
        fs::write(ready.path().join(NAME), "wal").unwrap();
        ready.note(NAME, "elsewhere").unwrap();
        assert!(!ready.path().join(NAME).exists(), "of another archive");
        assert_eq!(ready.asked().unwrap(), NAME);
    }

    #[test]
    fn a_file_is_coming_only_while_somebody_fetches_it() {
        let (_scratch, ready) = scratch();
        ready.note("000000010000000000000002", "here").unwrap();
        ready.announce(NAME, "000000010000000000000005").unwrap();
        assert!(!ready.is_coming(NAME));
        let running = ready.run().unwrap().unwrap();
        assert!(ready.run().unwrap().is_none());
        assert!(ready.is_coming(NAME) && ready.is_running());
        assert!(!ready.is_coming("000000010000000000000006"));
        assert!(!ready.is_coming("000000020000000000000003"));
        drop(running);
        assert!(!ready.is_coming(NAME) && !ready.is_running());
    }

    #[test]
    fn what_is_no_longer_wanted_goes() {
        let (_scratch, ready) = scratch();
        ready.note("000000010000000000000002", "here").unwrap();
        let part = format!("{NAME}{PART}");
        for name in [NAME, "000000010000000000000001", &part] {
            fs::write(ready.path().join(name), "").unwrap();
        }
        ready.keep_only(|name| name == NAME).unwrap();
        assert!(ready.path().join(NAME).exists() && ready.path().join(ASKED).exists());
        assert!(!ready.path().join(part).exists());
        assert!(!ready.path().join("000000010000000000000001").exists());
        ready.remove().unwrap();
        ready.remove().unwrap();
    }
}
