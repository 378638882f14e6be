//! LSNs, timelines and WAL segment names: all of their arithmetic lives here.

use std::fmt;
use std::str::FromStr;

use pitr_archive::object::StreamName;
use serde::{Deserialize, Serialize};

/// A byte position in the WAL of one timeline. Written `high/low` in hexadecimal, as PostgreSQL does.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Serialize, Deserialize)]
pub struct Lsn(pub u64);

impl Lsn {
    /// The position `bytes` further on.
    #[must_use]
    pub fn advance(self, bytes: u64) -> Self {
        Self(self.0 + bytes)
    }

    /// The first byte of the WAL segment that holds this position; `segment_bytes` is a power of two.
    #[must_use]
    pub fn segment_start(self, segment_bytes: u64) -> Self {
        Self(self.0 & !(segment_bytes - 1))
    }

    /// Bytes from `earlier` to here, zero if `earlier` is not earlier.
    #[must_use]
    pub fn bytes_since(self, earlier: Self) -> u64 {
        self.0.saturating_sub(earlier.0)
    }
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 as u32)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// Text that is not of the form it should have.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text:?} is not {wanted}")]
pub struct ParseError {
    /// What was given.
    pub text: String,
    /// What it should have been, with an example.
    pub wanted: &'static str,
}

impl FromStr for Lsn {
    type Err = ParseError;

    fn from_str(text: &str) -> Result<Self, ParseError> {
        let half = |part: &str| {
            let valid =
                (1..=8).contains(&part.len()) && part.bytes().all(|b| b.is_ascii_hexdigit());
            valid.then(|| u32::from_str_radix(part, 16).ok()).flatten()
        };
        text.split_once('/')
            .and_then(|(high, low)| {
                Some(Self(u64::from(half(high)?) << 32 | u64::from(half(low)?)))
            })
            .ok_or_else(|| ParseError {
                text: text.into(),
                wanted: "an LSN such as 0/3000028",
            })
    }
}

/// A timeline: one history of a cluster. A promotion starts the next.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Serialize, Deserialize)]
pub struct TimelineId(pub u32);

impl TimelineId {
    /// The archive's name for the stream of this timeline: eight upper-case hexadecimal digits.
    #[must_use]
    pub fn stream(self) -> String {
        format!("{:08X}", self.0)
    }

    /// The same as a name.
    ///
    /// # Panics
    /// Never: eight hexadecimal digits are a stream's name.
    #[must_use]
    pub fn stream_name(self) -> StreamName {
        StreamName::new(&self.stream()).expect("eight hexadecimal digits are a stream's name")
    }

    /// The inverse of [`Self::stream`].
    pub fn from_stream(text: &str) -> Result<Self, ParseError> {
        let valid = text.len() == 8 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F'));
        valid
            .then(|| u32::from_str_radix(text, 16).ok())
            .flatten()
            .filter(|&id| id != 0)
            .map(Self)
            .ok_or_else(|| ParseError {
                text: text.into(),
                wanted: "a timeline such as 00000001",
            })
    }
}

impl fmt::Display for TimelineId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What a file in `pg_wal` that `restore_command` may be asked for is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum WalFileName {
    /// A WAL segment: its timeline and the LSN of its first byte.
    Segment(TimelineId, Lsn),
    /// A timeline history file.
    History(TimelineId),
}

impl WalFileName {
    /// Reads `000000010000000000000003` or `00000002.history`; `segment_bytes` is the cluster's WAL segment size.
    pub fn parse(name: &str, segment_bytes: u64) -> Result<Self, ParseError> {
        let wrong = || ParseError {
            text: name.into(),
            wanted: "a WAL segment such as 000000010000000000000003 or a history file such as 00000002.history",
        };
        if let Some(timeline) = name.strip_suffix(".history") {
            return TimelineId::from_stream(timeline)
                .map(Self::History)
                .map_err(|_| wrong());
        }
        let hex = |range: std::ops::Range<usize>| {
            let part = name
                .get(range)
                .filter(|p| p.bytes().all(|b| matches!(b, b'0'..=b'9' | b'A'..=b'F')))?;
            u32::from_str_radix(part, 16).ok()
        };
        let timeline = name
            .get(..8)
            .and_then(|t| TimelineId::from_stream(t).ok())
            .ok_or_else(wrong)?;
        let (log, segment) = hex(8..16)
            .zip(hex(16..24))
            .filter(|_| name.len() == 24)
            .ok_or_else(wrong)?;
        let start = u64::from(log) << 32
            | u64::from(segment)
                .checked_mul(segment_bytes)
                .ok_or_else(wrong)?;
        let fits = u64::from(segment) * segment_bytes < 1 << 32;
        if fits {
            Ok(Self::Segment(timeline, Lsn(start)))
        } else {
            Err(wrong())
        }
    }

    /// The name of the WAL segment of `timeline` that holds `at`.
    #[must_use]
    pub fn segment(timeline: TimelineId, at: Lsn, segment_bytes: u64) -> String {
        format!(
            "{}{:08X}{:08X}",
            timeline.stream(),
            at.0 >> 32,
            (at.0 & 0xFFFF_FFFF) / segment_bytes
        )
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_lsn_reads_as_postgresql_writes_it() {
        assert_eq!("16/B374D848".parse(), Ok(Lsn(0x16_B374_D848)));
        assert_eq!(Lsn(0x16_B374_D848).to_string(), "16/B374D848");
        for wrong in ["", "0", "/", "0/", "0/123456789", "0/+1", "g/0", "0/0/0"] {
            assert!(wrong.parse::<Lsn>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn segment_names_go_both_ways() {
        let bytes = 16 << 20;
        let name = WalFileName::segment(TimelineId(3), Lsn(0x2_FF00_1234), bytes);
        assert_eq!(name, "0000000300000002000000FF");
        assert_eq!(
            WalFileName::parse(&name, bytes),
            Ok(WalFileName::Segment(TimelineId(3), Lsn(0x2_FF00_0000)))
        );
        assert_eq!(
            WalFileName::parse("0000000A.history", bytes),
            Ok(WalFileName::History(TimelineId(10)))
        );
        for wrong in [
            "000000030000000200000100",
            "00000003.partial",
            "00000000.history",
            "",
            "é",
            "00000003000000020000000",
        ] {
            assert!(WalFileName::parse(wrong, bytes).is_err(), "{wrong}");
        }
    }
}
