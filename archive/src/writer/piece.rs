//! A piece of a log on its way to the segmenter: what may be cut where. In a log of bytes every byte is a position; a log of records
//! is cut between records only, and positions are what its engine says.

use bytes::Bytes;

/// A record's end.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct RecordEnd {
    /// The position behind it.
    pub position: u64,
    /// Its length in bytes, 1 or more.
    pub bytes: u32,
}

/// What is appended to a log at once.
#[derive(Debug)]
pub(super) struct Piece {
    start: u64,
    bytes: Bytes,
    /// Of the records that are left, last one first; `None` in a log of bytes.
    ends: Option<Vec<RecordEnd>>,
}

/// What was taken of a piece.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Taken {
    pub(super) start: u64,
    pub(super) end: u64,
    pub(super) bytes: Bytes,
}

impl Piece {
    /// Bytes that are positions.
    pub(super) fn of_bytes(start: u64, bytes: Bytes) -> Self {
        Self {
            start,
            bytes,
            ends: None,
        }
    }

    /// Records whose positions begin at `start`.
    pub(super) fn of_records(start: u64, bytes: Bytes, mut ends: Vec<RecordEnd>) -> Self {
        let length: u64 = ends.iter().map(|end| u64::from(end.bytes)).sum();
        assert_eq!(length, bytes.len() as u64, "records fill their piece");
        let rising = ends.is_sorted_by(|a, b| a.position < b.position);
        assert!(
            rising && ends.first().is_none_or(|end| end.position > start),
            "positions rise"
        );
        ends.reverse();
        Self {
            start,
            bytes,
            ends: Some(ends),
        }
    }

    pub(super) fn start(&self) -> u64 {
        self.start
    }

    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// Whether it can be cut between records only.
    pub(super) fn is_records(&self) -> bool {
        self.ends.is_some()
    }

    /// Where its first record ends.
    pub(super) fn next_end(&self) -> Option<u64> {
        Some(self.ends.as_ref()?.last()?.position)
    }

    /// Takes as much as ends at or before the position `limit` and is not longer than `room` bytes; `None` if that is nothing.
    pub(super) fn split_to(&mut self, limit: u64, room: u64) -> Option<Taken> {
        let (end, length) = match &mut self.ends {
            None => {
                let length = room
                    .min(limit.saturating_sub(self.start))
                    .min(self.bytes.len() as u64);
                (self.start + length, length)
            }
            Some(ends) => {
                let (mut end, mut length) = (self.start, 0);
                while let Some(next) = ends
                    .pop_if(|next| next.position <= limit && length + u64::from(next.bytes) <= room)
                {
                    length += u64::from(next.bytes);
                    end = next.position;
                }
                (end, length)
            }
        };
        (length > 0).then(|| self.take(end, length))
    }

    /// Takes the first record, however long it is, if it ends at or before `limit`.
    pub(super) fn split_first(&mut self, limit: u64) -> Option<Taken> {
        let first = self
            .ends
            .as_mut()?
            .pop_if(|first| first.position <= limit)?;
        Some(self.take(first.position, first.bytes.into()))
    }

    fn take(&mut self, end: u64, length: u64) -> Taken {
        let start = std::mem::replace(&mut self.start, end);
        let bytes = self.bytes.split_to(length as usize);
        Taken { start, end, bytes }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn records(start: u64, ends: &[(u64, u32)]) -> Piece {
        let ends: Vec<_> = ends
            .iter()
            .map(|&(position, bytes)| RecordEnd { position, bytes })
            .collect();
        let length = ends.iter().map(|end| end.bytes as usize).sum();
        Piece::of_records(start, vec![7; length].into(), ends)
    }

    fn shape(taken: Option<Taken>) -> Option<(u64, u64, usize)> {
        taken.map(|taken| (taken.start, taken.end, taken.bytes.len()))
    }

    #[test]
    fn bytes_are_cut_at_any_position() {
        let mut piece = Piece::of_bytes(10, vec![0; 8].into());
        assert_eq!(shape(piece.split_to(13, u64::MAX)), Some((10, 13, 3)));
        assert_eq!(shape(piece.split_to(u64::MAX, 4)), Some((13, 17, 4)));
        assert_eq!(shape(piece.split_to(17, 4)), None);
        assert_eq!(shape(piece.split_to(100, 100)), Some((17, 18, 1)));
        assert!(piece.is_empty());
    }

    #[test]
    fn records_are_never_cut() {
        let mut piece = records(10, &[(1000, 5), (1001, 5), (5000, 50)]);
        assert_eq!(shape(piece.split_to(999, u64::MAX)), None);
        assert_eq!(shape(piece.split_to(u64::MAX, 4)), None);
        assert_eq!(shape(piece.split_to(4999, 12)), Some((10, 1001, 10)));
        assert_eq!(shape(piece.split_first(4999)), None);
        assert_eq!(shape(piece.split_first(5000)), Some((1001, 5000, 50)));
        assert!(piece.is_empty());
    }
}
