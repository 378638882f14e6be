//! Bytes that wait: in memory until somebody asks for room, then in a file without a name, which nobody else can open and which
//! is gone with the process.

use std::fs::File;
use std::io::{BufReader, Cursor, ErrorKind, Read, Seek, SeekFrom, Write};
use std::path::Path;

use super::error::FoldError;
use super::raw::DOCUMENT_BYTES_MAX;

/// Reading ahead.
const READ_BYTES: usize = 256 * 1024;

/// A queue of bytes, written once and then read once.
#[derive(Debug, Default)]
pub(super) struct Scratch {
    held: Vec<u8>,
    file: Option<File>,
    file_bytes: u64,
}

impl Scratch {
    /// An empty one.
    pub(super) fn new() -> Self {
        Self::default()
    }

    /// Appends, in memory; returns how many bytes of it that takes.
    pub(super) fn append(&mut self, bytes: &[u8]) -> usize {
        let before = self.held.capacity();
        self.held.extend_from_slice(bytes);
        self.held.capacity() - before
    }

    /// What it takes of memory.
    pub(super) fn held_bytes(&self) -> usize {
        self.held.capacity()
    }

    /// What lies in a file.
    pub(super) fn file_bytes(&self) -> u64 {
        self.file_bytes
    }

    /// All of it.
    pub(super) fn bytes(&self) -> u64 {
        self.file_bytes + self.held.len() as u64
    }

    /// Moves what is held into a file in `directory`; returns how much memory that gives back.
    pub(super) fn spill(&mut self, directory: &Path) -> Result<usize, FoldError> {
        let mut file = match self.file.take() {
            Some(file) => file,
            None => tempfile::tempfile_in(directory)
                .map_err(FoldError::scratch("make a scratch file"))?,
        };
        file.write_all(&self.held)
            .map_err(FoldError::scratch("write a scratch file"))?;
        self.file = Some(file);
        self.file_bytes += self.held.len() as u64;
        Ok(std::mem::take(&mut self.held).capacity())
    }

    /// From its beginning.
    pub(super) fn read(self) -> Result<Contents, FoldError> {
        let file: Box<dyn Read + Send> = match self.file {
            Some(mut file) => {
                file.seek(SeekFrom::Start(0))
                    .map_err(FoldError::scratch("read a scratch file"))?;
                Box::new(BufReader::with_capacity(READ_BYTES, file).chain(Cursor::new(self.held)))
            }
            None => Box::new(Cursor::new(self.held)),
        };
        Ok(Contents { bytes: file })
    }
}

/// The contents of a [`Scratch`] in the order in which they were appended.
pub(super) struct Contents {
    bytes: Box<dyn Read + Send>,
}

impl std::fmt::Debug for Contents {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Contents")
    }
}

impl Contents {
    /// The next BSON document into `buffer`; `false` at the end.
    pub(super) fn next_document(&mut self, buffer: &mut Vec<u8>) -> Result<bool, FoldError> {
        let mut length = [0; 4];
        if !self.next_exact(&mut length)? {
            return Ok(false);
        }
        let bytes = usize::try_from(i32::from_le_bytes(length)).unwrap_or(0);
        if !(5..=DOCUMENT_BYTES_MAX).contains(&bytes) {
            let source = ErrorKind::InvalidData.into();
            return Err(FoldError::scratch("read a scratch file")(source));
        }
        buffer.clear();
        buffer.extend_from_slice(&length);
        buffer.resize(bytes, 0);
        self.exact(&mut buffer[4..])?;
        Ok(true)
    }

    /// Fills `buffer`; `false` if the end was reached already.
    pub(super) fn next_exact(&mut self, buffer: &mut [u8]) -> Result<bool, FoldError> {
        let first = loop {
            match self.bytes.read(buffer) {
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                read => break read.map_err(FoldError::scratch("read a scratch file"))?,
            }
        };
        if first == 0 {
            return Ok(buffer.is_empty());
        }
        self.exact(&mut buffer[first..])?;
        Ok(true)
    }

    /// Fills `buffer`; the end is an error.
    pub(super) fn exact(&mut self, buffer: &mut [u8]) -> Result<(), FoldError> {
        self.bytes
            .read_exact(buffer)
            .map_err(FoldError::scratch("read a scratch file"))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_spilled_and_what_was_held_come_back_in_order() {
        let directory = tempfile::tempdir().unwrap();
        let mut scratch = Scratch::new();
        for number in 0..10_u8 {
            scratch.append(&[5, 0, 0, 0, 0]);
            scratch.append(&[6 + number, 0, 0, 0]);
            scratch.append(&vec![0; usize::from(number) + 2]);
            if number % 3 == 1 {
                assert!(scratch.spill(directory.path()).unwrap() > 0);
                assert_eq!(scratch.held_bytes(), 0);
            }
        }
        assert_eq!(std::fs::read_dir(directory.path()).unwrap().count(), 0);
        let (mut contents, mut buffer) = (scratch.read().unwrap(), Vec::new());
        for number in 0..10 {
            assert!(contents.next_document(&mut buffer).unwrap());
            assert_eq!(buffer.len(), 5);
            assert!(contents.next_document(&mut buffer).unwrap());
            assert_eq!(buffer.len(), 6 + number);
        }
        assert!(!contents.next_document(&mut buffer).unwrap());
    }

    #[test]
    fn a_document_that_is_cut_off_is_an_error() {
        for cut in 1..6 {
            let mut scratch = Scratch::new();
            scratch.append(&[6, 0, 0, 0, 0, 0][..cut]);
            assert!(
                scratch
                    .read()
                    .unwrap()
                    .next_document(&mut Vec::new())
                    .is_err()
            );
        }
    }
}
