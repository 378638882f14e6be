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
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn octal(field: &mut [u8], number: u64) {
        let digits = format!("{number:0width$o} ", width = field.len() - 1);
        field.copy_from_slice(digits.as_bytes());
    }

    fn seal(block: &mut [u8; 512]) {
        block[CHECKSUM_FIELD].fill(b' ');
        let sum = block.iter().map(|&byte| u64::from(byte)).sum();
        octal(&mut block[148..155], sum);
    }

    /// A header as PostgreSQL lays it out.
    fn header(name: &[u8], kind: u8, size: u64, target: &[u8]) -> [u8; 512] {
        let mut block = [0; 512];
        block[..name.len()].copy_from_slice(name);
        octal(&mut block[100..108], 0o100_600);
        octal(&mut block[108..116], 26);
        octal(&mut block[116..124], 26);
        if size < 1 << 33 {
            octal(&mut block[124..136], size);
        } else {
            block[124] = 0x80;
            block[128..136].copy_from_slice(&size.to_be_bytes());
        }
        octal(&mut block[136..148], 1_795_233_394);
        block[156] = kind;
        block[157..157 + target.len()].copy_from_slice(target);
        block[257..263].copy_from_slice(b"ustar\0");
        block[263..265].copy_from_slice(b"00");
        seal(&mut block);
        block
    }

    fn archive(files: &[(&str, Vec<u8>)]) -> Vec<u8> {
        let mut bytes = Vec::new();
        for (name, contents) in files {
            bytes.extend(header(name.as_bytes(), b'0', contents.len() as u64, b""));
            bytes.extend(contents);
            bytes.resize(bytes.len().next_multiple_of(512), 0);
        }
        bytes.extend([0; 1024]);
        bytes
    }

    type Files = Vec<(PathBuf, Vec<u8>)>;

    /// Paths with contents, how many entries ended, and whether the archive did.
    fn read(bytes: &[u8], slice: usize) -> Result<(Files, usize, bool), TarError> {
        let mut reader = TarReader::new();
        let (mut files, mut ends, mut ended) = (Vec::new(), 0, false);
        for piece in bytes.chunks(slice) {
            reader.feed(piece, &mut |event| match event {
                TarEvent::Entry(entry) => files.push((entry.path, Vec::new())),
                TarEvent::Data(data) => files.last_mut().expect("an entry").1.extend(data),
                TarEvent::EndOfEntry => ends += 1,
                TarEvent::EndOfArchive => ended = true,
            })?;
        }
        reader.finish()?;
        Ok((files, ends, ended))
    }

    fn entry(block: &[u8; 512]) -> Result<TarEntry, TarError> {
        let mut entries = Vec::new();
        TarReader::new().feed(block, &mut |event| {
            if let TarEvent::Entry(entry) = event {
                entries.push(entry);
            }
        })?;
        Ok(entries.remove(0))
    }

    #[test]
    fn files_directories_and_links_come_out_as_they_went_in() {
        let file = entry(&header(b"base/5/INCREMENTAL.1259", b'0', 0, b"")).expect("a file");
        assert_eq!(file.path, PathBuf::from("base/5/INCREMENTAL.1259"));
        assert_eq!((file.mode, file.mtime), (0o600, 1_795_233_394));
        let directory = entry(&header(b"./pg_wal/archive_status/", b'5', 0, b"")).expect("one");
        assert_eq!(directory.path, PathBuf::from("pg_wal/archive_status"));
        assert_eq!(directory.kind, TarKind::Directory);
        let link = entry(&header(b"pg_tblspc/24576", b'2', 0, b"/srv/fast disk")).expect("one");
        let target = PathBuf::from("/srv/fast disk");
        assert_eq!(link.kind, TarKind::Symlink { target });
        let odd = entry(&header(b"odd\xffname", b'0', 0, b"")).expect("one");
        assert_eq!(odd.path.as_os_str().as_encoded_bytes(), b"odd\xffname");
    }

    #[test]
    fn sizes_beyond_eight_gigabytes_are_read() {
        for size in [(1 << 33) - 1, 1 << 33, 5 << 40] {
            assert_eq!(
                entry(&header(b"big", b'0', size, b"")).map(|e| e.size),
                Ok(size)
            );
        }
        let endless = entry(&header(b"big", b'0', u64::MAX, b""));
        assert_eq!(
            endless,
            Err(TarError::Header {
                offset: 0,
                field: "size"
            })
        );
    }

    #[test]
    fn a_path_that_leads_out_is_refused() {
        for name in [
            "/etc/passwd",
            "../x",
            "a/../../x",
            "a/..",
            "..",
            "",
            "./",
            ".",
        ] {
            let found = entry(&header(name.as_bytes(), b'0', 0, b""));
            assert_eq!(found, Err(TarError::UnsafePath { offset: 0 }), "{name}");
        }
    }

    #[test]
    fn kinds_no_base_backup_has_are_refused() {
        for kind in [b'1', b'3', b'6', b'L', b'x', b'g'] {
            let found = entry(&header(b"a", kind, 0, b""));
            assert_eq!(
                found,
                Err(TarError::Header {
                    offset: 0,
                    field: "kind"
                })
            );
        }
        let sized = entry(&header(b"a", b'5', 1, b""));
        assert_eq!(
            sized,
            Err(TarError::Header {
                offset: 0,
                field: "size"
            })
        );
    }

    #[test]
    fn an_archive_that_goes_on_behind_its_end_is_refused_where_it_does() {
        let mut bytes = archive(&[("a", vec![1; 10])]);
        let end = bytes.len();
        bytes.extend([0; 700]);
        assert!(read(&bytes, 100).is_ok());
        bytes.push(1);
        let offset = end as u64 + 700;
        assert_eq!(read(&bytes, 100), Err(TarError::AfterEnd { offset }));
        let mut one_block = archive(&[("a", vec![1; 10])]);
        one_block.truncate(end - 512);
        one_block.extend(header(b"b", b'0', 0, b""));
        let offset = end as u64 - 512;
        assert_eq!(read(&one_block, 7), Err(TarError::AfterEnd { offset }));
    }

    #[test]
    fn every_flipped_bit_of_a_header_is_noticed_or_changes_nothing() {
        let whole = archive(&[("base/1/1259", vec![7; 100])]);
        let expected = read(&whole, 512);
        assert!(expected.is_ok());
        for (at, bit) in (0..512).flat_map(|at| (0..8).map(move |bit| (at, bit))) {
            let mut bytes = whole.clone();
            bytes[at] ^= 1 << bit;
            let found = read(&bytes, 512);
            // Within the checksum's own field a zero may become a blank: the number is the same.
            let same = (148..156).contains(&at) && found == expected;
            assert!(found.is_err() || same, "byte {at}, bit {bit}");
        }
    }

    proptest! {
        #[test]
        fn slices_of_any_length_give_the_same_files(
            contents in prop::collection::vec(prop::collection::vec(any::<u8>(), 0..2000), 0..6),
            slice in 1..3000_usize,
        ) {
            let names = ["a", "b/c", "b/d", "e", "f", "g"];
            let files: Vec<_> = names.into_iter().zip(contents).collect();
            let bytes = archive(&files);
            let found = read(&bytes, slice).expect("a whole archive");
            let expected: Vec<_> = files.into_iter().map(|(n, c)| (PathBuf::from(n), c)).collect();
            prop_assert_eq!(found, (expected.clone(), expected.len(), true));
        }

        #[test]
        fn every_truncation_is_noticed(
            sizes in prop::collection::vec(0..2000_usize, 0..4),
            cut in any::<prop::sample::Index>(),
        ) {
            let names = ["a", "b", "c", "d"];
            let files: Vec<_> = names.into_iter().zip(sizes.iter().map(|&s| vec![7; s])).collect();
            let bytes = archive(&files);
            let cut = cut.index(bytes.len());
            let found = read(&bytes[..cut], 600);
            prop_assert_eq!(found, Err(TarError::Truncated { offset: cut as u64 }));
        }

        #[test]
        fn arbitrary_bytes_never_panic(
            mut bytes in prop::collection::vec(any::<u8>(), 0..3000),
            slice in 1..600_usize,
            sealed in any::<bool>(),
        ) {
            if let (true, Some(block)) = (sealed, bytes.first_chunk_mut::<512>()) {
                block[257..262].copy_from_slice(b"ustar");
                seal(block);
            }
            let _ = read(&bytes, slice);
        }
    }
}
