//! The tar stream of a base backup, taken apart as it arrives. Bytes go in, in slices of any length; names and
//! contents come out. Nothing is buffered but a header's 512 bytes.

use std::ffi::OsString;
use std::os::unix::ffi::OsStringExt;
use std::path::PathBuf;

const BLOCK_BYTES: usize = 512;
const CHECKSUM_FIELD: std::ops::Range<usize> = 148..156;

/// What a tar entry is.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum TarKind {
    /// A file; its contents follow.
    File,
    /// A directory.
    Directory,
    /// A symbolic link, in a base backup always a tablespace's. The target may lie anywhere.
    Symlink {
        /// What the link leads to, as the server said it.
        target: PathBuf,
    },
}

/// One file, directory or link.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct TarEntry {
    /// Where it belongs below the directory the archive is of: relative, without `.` or `..`.
    pub path: PathBuf,
    /// What it is.
    pub kind: TarKind,
    /// Bytes of contents that follow; 0 for all but files.
    pub size: u64,
    /// Permission bits.
    pub mode: u32,
    /// Seconds since the Unix epoch.
    pub mtime: u64,
}

/// One step through an archive, in order: `Entry`, any number of `Data`, `EndOfEntry`, and after the last `EndOfArchive`.
#[derive(PartialEq, Eq, Debug)]
pub enum TarEvent<'a> {
    /// An entry begins.
    Entry(TarEntry),
    /// The next bytes of the file's contents; never empty.
    Data(&'a [u8]),
    /// All of the entry's contents have been given.
    EndOfEntry,
    /// The archive is whole.
    EndOfArchive,
}

/// Why a stream is not the archive it should be. Offsets count from the archive's first byte. Always permanent: a
/// stream that came wrong is thrown away as a whole.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum TarError {
    /// The header's own checksum does not fit.
    #[error("the tar header at byte {offset} is damaged: its checksum does not match")]
    Checksum {
        /// Where the header starts.
        offset: u64,
    },
    /// A field that cannot be read, or an entry of a kind that no base backup has.
    #[error("the tar header at byte {offset} has an unusable {field}")]
    Header {
        /// Where the header starts.
        offset: u64,
        /// Which field.
        field: &'static str,
    },
    /// A path that would lead out of the directory restored into.
    #[error("the tar header at byte {offset} names an unsafe path")]
    UnsafePath {
        /// Where the header starts.
        offset: u64,
    },
    /// Bytes that are not zero after the end of the archive, or after the first of the two blocks that mark it.
    #[error("the tar stream goes on behind its end at byte {offset}")]
    AfterEnd {
        /// Where the bytes lie.
        offset: u64,
    },
    /// The stream ended before the archive did.
    #[error("the tar stream ends early, at byte {offset}")]
    Truncated {
        /// Bytes received.
        offset: u64,
    },
}

/// Reads one archive, pushed in as it arrives. After an error it has nothing more to say.
pub struct TarReader {
    state: State,
    offset: u64,
    header: [u8; BLOCK_BYTES],
}

#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum State {
    /// A header, so many bytes of which are there. `ending`: the first of two zero blocks has passed.
    Header {
        read: usize,
        ending: bool,
    },
    Data {
        left: u64,
        padding: u64,
    },
    Padding {
        left: u64,
    },
    Ended,
}

impl Default for TarReader {
    fn default() -> Self {
        Self {
            state: State::Header {
                read: 0,
                ending: false,
            },
            offset: 0,
            header: [0; BLOCK_BYTES],
        }
    }
}

impl TarReader {
    /// A reader for the archive whose first byte comes next.
    #[must_use]
    pub fn new() -> Self {
        Self::default()
    }

    /// Reads on; tells `sink` what it finds.
    pub fn feed(
        &mut self,
        mut bytes: &[u8],
        sink: &mut impl FnMut(TarEvent<'_>),
    ) -> Result<(), TarError> {
        while !bytes.is_empty() {
            let used = match self.state {
                State::Header { read, ending } => {
                    let used = bytes.len().min(BLOCK_BYTES - read);
                    self.header[read..read + used].copy_from_slice(&bytes[..used]);
                    let read = read + used;
                    self.state = State::Header { read, ending };
                    if read == BLOCK_BYTES {
                        self.state = self.block(ending, sink)?;
                    }
                    used
                }
                State::Data { left, padding } => {
                    let used = up_to(left, bytes);
                    sink(TarEvent::Data(&bytes[..used]));
                    self.state = match left - used as u64 {
                        0 => end_of_entry(padding, sink),
                        left => State::Data { left, padding },
                    };
                    used
                }
                State::Padding { left } => {
                    let used = up_to(left, bytes);
                    self.state = after_padding(left - used as u64);
                    used
                }
                State::Ended => {
                    if let Some(at) = bytes.iter().position(|&byte| byte != 0) {
                        return Err(TarError::AfterEnd {
                            offset: self.offset + at as u64,
                        });
                    }
                    bytes.len()
                }
            };
            self.offset += used as u64;
            bytes = &bytes[used..];
        }
        Ok(())
    }

    /// Says whether the stream ended where the archive does. PostgreSQL 15 to 18 close it with two zero blocks, so that
    /// a stream cut between two files is told apart.
    pub fn finish(&self) -> Result<(), TarError> {
        match self.state {
            State::Ended => Ok(()),
            _ => Err(TarError::Truncated {
                offset: self.offset,
            }),
        }
    }

    /// Reads the block in `header`; says what comes behind it.
    fn block(&self, ending: bool, sink: &mut impl FnMut(TarEvent<'_>)) -> Result<State, TarError> {
        let zero = self.header.iter().all(|&byte| byte == 0);
        let offset = self.header_offset();
        match (zero, ending) {
            (true, true) => {
                sink(TarEvent::EndOfArchive);
                return Ok(State::Ended);
            }
            (true, false) => {
                return Ok(State::Header {
                    read: 0,
                    ending: true,
                });
            }
            (false, true) => return Err(TarError::AfterEnd { offset }),
            (false, false) => {}
        }
        let entry = parse_header(&self.header, offset)?;
        let left = entry.size;
        let padding = left.next_multiple_of(BLOCK_BYTES as u64) - left;
        sink(TarEvent::Entry(entry));
        Ok(match left {
            0 => end_of_entry(0, sink),
            left => State::Data { left, padding },
        })
    }

    /// The offset stands at the slice that completed the header: in the header's block.
    fn header_offset(&self) -> u64 {
        self.offset - self.offset % BLOCK_BYTES as u64
    }
}

fn up_to(left: u64, bytes: &[u8]) -> usize {
    usize::try_from(left).map_or(bytes.len(), |left| left.min(bytes.len()))
}

fn end_of_entry(padding: u64, sink: &mut impl FnMut(TarEvent<'_>)) -> State {
    sink(TarEvent::EndOfEntry);
    after_padding(padding)
}

fn after_padding(left: u64) -> State {
    match left {
        0 => State::Header {
            read: 0,
            ending: false,
        },
        left => State::Padding { left },
    }
}

fn parse_header(block: &[u8; BLOCK_BYTES], offset: u64) -> Result<TarEntry, TarError> {
    let unusable = |field| TarError::Header { offset, field };
    let sum: u64 = (0..BLOCK_BYTES)
        .map(|at| match CHECKSUM_FIELD.contains(&at) {
            true => u64::from(b' '),
            false => u64::from(block[at]),
        })
        .sum();
    if number(&block[CHECKSUM_FIELD]) != Some(sum) {
        return Err(TarError::Checksum { offset });
    }
    if &block[257..262] != b"ustar" {
        return Err(unusable("format"));
    }
    let mode = number(&block[100..108]).ok_or(unusable("mode"))?;
    let size = number(&block[124..136]).ok_or(unusable("size"))?;
    let mtime = number(&block[136..148]).ok_or(unusable("time"))?;
    let kind = match block[156] {
        b'0' | 0 => TarKind::File,
        b'5' => TarKind::Directory,
        b'2' => TarKind::Symlink {
            target: OsString::from_vec(text(&block[157..257]).to_vec()).into(),
        },
        _ => return Err(unusable("kind")),
    };
    // The top bit stays free so that positions in the archive cannot overflow.
    let fits = match kind {
        TarKind::File => size < 1 << 62,
        TarKind::Directory | TarKind::Symlink { .. } => size == 0,
    };
    if !fits {
        return Err(unusable("size"));
    }
    let mut name = text(&block[345..500]).to_vec();
    if !name.is_empty() {
        name.push(b'/');
    }
    name.extend(text(&block[..100]));
    Ok(TarEntry {
        path: relative_path(&name).ok_or(TarError::UnsafePath { offset })?,
        kind,
        size,
        mode: (mode & 0o7777) as u32,
        mtime,
    })
}

/// A field's text: up to its first zero byte, or all of it.
fn text(field: &[u8]) -> &[u8] {
    field.split(|&byte| byte == 0).next().unwrap_or_default()
}

/// Reads a number in octal digits or, as PostgreSQL writes those that need more, in base 256 behind a byte 0x80.
fn number(field: &[u8]) -> Option<u64> {
    if let [0x80, digits @ ..] = field {
        return digits.iter().try_fold(0_u64, |number, &byte| {
            Some(number.checked_mul(256)? | u64::from(byte))
        });
    }
    let digits = text(field).trim_ascii();
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0_u64, |number, &byte| match byte {
        b'0'..=b'7' => Some(number.checked_mul(8)? | u64::from(byte - b'0')),
        _ => None,
    })
}

/// The path that bytes from a server name, if it stays below the directory it is taken in. Steps that lead nowhere
/// (`.`, doubled slashes, a slash at the end) are taken out.
pub(crate) fn relative_path(bytes: &[u8]) -> Option<PathBuf> {
    if bytes.starts_with(b"/") || bytes.contains(&0) {
        return None;
    }
    let mut path = PathBuf::new();
    for step in bytes.split(|&byte| byte == b'/') {
        match step {
            b"" | b"." => {}
            b".." => return None,
            step => path.push(OsString::from_vec(step.to_vec())),
        }
    }
    (!path.as_os_str().is_empty()).then_some(path)
}

#[cfg(test)]
mod tests;
