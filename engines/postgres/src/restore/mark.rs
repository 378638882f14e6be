//! The mark of an unfinished restore, which is also the record of what is done: `pitrd.incomplete` in the data directory,
//! made first and removed last. A line of JSON says what is being restored; a line follows for every part that is durable.

use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::io::{BufRead, BufReader, Seek, SeekFrom, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use super::error::RestoreError;

/// The mark's name in the data directory.
pub(super) const MARK: &str = "pitrd.incomplete";

/// The version of [`Job`].
pub(super) const JOB_VERSION: u32 = 1;

/// What is being restored; only the same may go on.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Job {
    /// Of this document.
    pub(super) version: u32,
    /// The archive.
    pub(super) archive: String,
    /// The base backup.
    pub(super) backup: String,
    /// Where tablespaces outside the data directory go, by OID.
    pub(super) tablespaces: BTreeMap<u32, PathBuf>,
}

/// What a part gave to one file: number of the file in the tree, offset in the file, bytes, their CRC-32C.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Serialize, Deserialize)]
pub(super) struct Written(
    pub(super) usize,
    pub(super) u64,
    pub(super) u64,
    pub(super) u32,
);

/// A part that is in place.
#[derive(Clone, PartialEq, Eq, Debug, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(super) struct Part {
    /// Its number.
    pub(super) seq: u64,
    /// First byte of the contents.
    pub(super) start: u64,
    /// Behind its last byte.
    pub(super) end: u64,
    /// What it gave to files.
    pub(super) files: Vec<Written>,
}

/// What is done.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub(super) struct Done {
    /// Parts that are in place, durable.
    pub(super) parts: Vec<Part>,
    /// All of it was held against PostgreSQL's manifest; files may have been changed since.
    pub(super) verified: bool,
}

/// A line behind the first.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
enum Line {
    Part(Part),
    Verified,
}

/// The mark, open and locked against a second restore.
#[derive(Debug)]
pub(super) struct Mark {
    file: File,
    path: PathBuf,
}

impl Mark {
    /// Makes the mark at `path`, durable, or takes up the one that is there and returns what is done. Its directory is that of the
    /// data, or the one beside it.
    pub(super) fn open(path: &Path, job: &Job) -> Result<(Self, Done), RestoreError> {
        let root = path.parent().expect("the mark lies in a directory");
        let path = path.to_owned();
        let file = OpenOptions::new()
            .read(true)
            .append(true)
            .create(true)
            .mode(0o600)
            .open(&path)
            .map_err(RestoreError::file("open", &path))?;
        flock(&file, FlockOperation::NonBlockingLockExclusive)
            .map_err(|_| RestoreError::place(root, "another restore is writing into it"))?;
        let mut mark = Self { file, path };
        let (found, done, valid_bytes) = mark.read()?;
        match found {
            Some(found) if found == *job => {
                // A line that was being written when the restore was killed goes away.
                mark.file
                    .set_len(valid_bytes)
                    .map_err(RestoreError::file("truncate", &mark.path))?;
                Ok((mark, done))
            }
            Some(found) => {
                let reason = format!(
                    "it holds an interrupted restore of base backup {}{}; remove it, or choose another directory",
                    found.backup,
                    if found.backup == job.backup {
                        " into other places"
                    } else {
                        ""
                    },
                );
                Err(RestoreError::place(root, reason))
            }
            None => {
                mark.file
                    .set_len(0)
                    .map_err(RestoreError::file("truncate", &mark.path))?;
                mark.append(&[job])?;
                sync_directory(root)?;
                if let Some(parent) = root.parent() {
                    sync_directory(parent)?;
                }
                Ok((mark, Done::default()))
            }
        }
    }

    fn read(&mut self) -> Result<(Option<Job>, Done, u64), RestoreError> {
        let failed = |source| RestoreError::file("read", &self.path)(source);
        let mut lines = BufReader::new(&self.file);
        lines.seek(SeekFrom::Start(0)).map_err(failed)?;
        let (mut job, mut done, mut valid_bytes) = (None, Done::default(), 0);
        let mut line = Vec::new();
        loop {
            line.clear();
            let bytes = lines.read_until(b'\n', &mut line).map_err(failed)?;
            if bytes == 0 || line.last() != Some(&b'\n') {
                break;
            }
            if job.is_none() {
                let Ok(first) = serde_json::from_slice(&line) else {
                    break;
                };
                job = Some(first);
            } else {
                match serde_json::from_slice(&line) {
                    Ok(Line::Part(part)) => done.parts.push(part),
                    Ok(Line::Verified) => done.verified = true,
                    Err(_) => break,
                }
            }
            valid_bytes += bytes as u64;
        }
        Ok((job, done, valid_bytes))
    }

    /// Records parts that are in place; durable when it returns.
    pub(super) fn parts(&mut self, parts: &[Part]) -> Result<(), RestoreError> {
        let lines: Vec<_> = parts.iter().cloned().map(Line::Part).collect();
        self.append(&lines)
    }

    /// Records that all of it was verified; durable when it returns.
    pub(super) fn verified(&mut self) -> Result<(), RestoreError> {
        self.append(&[Line::Verified])
    }

    fn append(&mut self, lines: &[impl Serialize]) -> Result<(), RestoreError> {
        let mut text = Vec::new();
        for line in lines {
            serde_json::to_writer(&mut text, line).expect("numbers and strings are JSON");
            text.push(b'\n');
        }
        let written = self.file.write_all(&text);
        written
            .and_then(|()| self.file.sync_data())
            .map_err(RestoreError::file("write", &self.path))
    }

    /// Takes the mark away: the restore is whole.
    pub(super) fn remove(self) -> Result<(), RestoreError> {
        std::fs::remove_file(&self.path).map_err(RestoreError::file("remove", &self.path))?;
        sync_directory(self.path.parent().expect("the mark lies in a directory"))
    }
}

/// Makes the names in a directory durable.
pub(super) fn sync_directory(path: &Path) -> Result<(), RestoreError> {
    File::open(path)
        .and_then(|directory| directory.sync_all())
        .map_err(RestoreError::file("sync", path))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn job(backup: &str) -> Job {
        Job {
            version: 1,
            archive: "00".into(),
            backup: backup.into(),
            tablespaces: BTreeMap::from([(5, "/new".into())]),
        }
    }

    fn part(seq: u64) -> Part {
        Part {
            seq,
            start: seq * 10,
            end: seq * 10 + 10,
            files: vec![Written(1, 2, 3, 4)],
        }
    }

    #[test]
    fn what_was_recorded_is_known_after_a_crash_and_a_torn_line_is_not() {
        let directory = tempfile::tempdir().unwrap();
        let (mut mark, done) = Mark::open(&directory.path().join(MARK), &job("a")).unwrap();
        assert_eq!(done, Done::default());
        mark.parts(&[part(0), part(3)]).unwrap();
        mark.file.write_all(b"{\"part\":{\"seq\":4,\"sta").unwrap();
        drop(mark);
        let (mut mark, done) = Mark::open(&directory.path().join(MARK), &job("a")).unwrap();
        assert_eq!(done.parts, [part(0), part(3)]);
        mark.parts(&[part(4)]).unwrap();
        mark.verified().unwrap();
        drop(mark);
        let (_, done) = Mark::open(&directory.path().join(MARK), &job("a")).unwrap();
        assert_eq!(done.parts, [part(0), part(3), part(4)]);
        assert!(done.verified);
    }

    #[test]
    fn another_plan_and_a_second_restore_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (mark, _) = Mark::open(&directory.path().join(MARK), &job("a")).unwrap();
        let busy = Mark::open(&directory.path().join(MARK), &job("a")).unwrap_err();
        assert!(busy.to_string().contains("another restore"), "{busy}");
        drop(mark);
        let other = Mark::open(&directory.path().join(MARK), &job("b")).unwrap_err();
        assert!(other.to_string().contains("base backup a"), "{other}");
    }
}
