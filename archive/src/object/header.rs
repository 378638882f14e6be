//! The plaintext header of a sealed object: what is bound into its key and bisected on, 256 canonical bytes.

use super::name::{Id, StreamName};
use super::proofs::Proofs;

/// Bytes of a header.
pub const HEADER_BYTES: usize = 256;
/// The format version that this library writes and reads.
pub const FORMAT_VERSION: u16 = 1;
/// No object holds more payload than this, so that a forged length cannot exhaust memory.
pub(super) const PAYLOAD_BYTES_MAX: u64 = 1 << 30;
/// No object stands for more plaintext than this, for the same reason.
pub(super) const PLAINTEXT_BYTES_MAX: u64 = 1 << 30;
/// A time that is not known, and the pointer that points nowhere.
const NONE_TIME: i64 = i64::MIN;
const NONE_SEQ: u64 = u64::MAX;
const MAGIC: &[u8; 8] = b"PITRD\0\r\n";
const CODEC_ZSTD_FRAMES: u8 = 1;
const FLAG_REFILL: u16 = 1;
/// 2 is refused by a golden vector.
const FLAG_PROOFS: u16 = 4;

/// What a sealed object is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
#[repr(u8)]
pub enum Kind {
    /// Positions `[start, end)` of a stream.
    Segment = 1,
    /// A piece of a base backup; `start..end` are byte offsets in the backup's contents.
    Part = 2,
    /// What a base backup consists of; `start` and `end` are the positions between which it was taken.
    Manifest = 3,
    /// A PostgreSQL timeline history file.
    History = 4,
}

impl Kind {
    fn from_byte(byte: u8) -> Option<Self> {
        [Self::Segment, Self::Part, Self::Manifest, Self::History]
            .into_iter()
            .find(|&kind| kind as u8 == byte)
    }
}

/// The header. Times are in µs since the Unix epoch, by the source's clock.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Header {
    /// What the object is.
    pub kind: Kind,
    /// A hole that a crash left was filled with this segment; the chain hash of the next one may differ.
    pub refill: bool,
    /// The archive it belongs to.
    pub archive_id: Id,
    /// The data key its own key is derived from.
    pub key_id: Id,
    /// The process that wrote it.
    pub writer_id: Id,
    /// The stream it belongs to; for parts and manifests the stream that the backup needs.
    pub stream: StreamName,
    /// The backup that a part or manifest belongs to, zero otherwise.
    pub set_id: Id,
    /// Its number in the stream or in the backup.
    pub seq: u64,
    /// First position.
    pub start: u64,
    /// Position behind the last one.
    pub end: u64,
    /// Earliest time of a record that ends in this segment.
    pub time_min: Option<i64>,
    /// Latest time of a record that ends in this segment.
    pub time_max: Option<i64>,
    /// Latest time of a record from the start of the run to the end of this segment: a running maximum.
    pub time_high: Option<i64>,
    /// Number of the segment that began the unbroken run which this one belongs to.
    pub run_seq: u64,
    /// First position of that run.
    pub run_start: u64,
    /// The latest segment of the run, this one included, whose first record could not be decoded because its
    /// writer resumed inside it: its times may lack that record's.
    pub unsure_seq: Option<u64>,
    /// The first record that a replay cannot pass, of those noted in the latest segment of the run, this one included, that has any.
    pub damage: Option<u64>,
    /// By which a writer that cannot open the segment knows its log again.
    pub proofs: Proofs,
    /// Bytes of the plaintext.
    pub plaintext_bytes: u64,
    /// Bytes of the payload (frames and footer) before encryption; it fixes the object's length.
    pub payload_bytes: u64,
    /// BLAKE3 of the previous object of the stream or backup, zero before the first.
    pub previous: [u8; 32],
}

/// Why bytes are not a header.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum HeaderError {
    /// The first bytes are not ours.
    #[error("it is not a pitrd object (wrong magic at offset 0)")]
    Magic,
    /// Written by a later release.
    #[error(
        "format version {0} is not known to this release, which reads version {FORMAT_VERSION}"
    )]
    Version(u16),
    /// A field that no writer writes.
    #[error("header field {field} at offset {offset} is not valid")]
    Field {
        /// Its name in docs/format.md.
        field: &'static str,
        /// Its offset in bytes.
        offset: usize,
    },
}

impl Header {
    /// The canonical bytes, as docs/format.md lists them.
    #[must_use]
    pub fn encode(&self) -> [u8; HEADER_BYTES] {
        let mut out = [0; HEADER_BYTES];
        let mut put =
            |offset: usize, bytes: &[u8]| out[offset..offset + bytes.len()].copy_from_slice(bytes);
        put(0, MAGIC);
        put(8, &FORMAT_VERSION.to_be_bytes());
        put(10, &[self.kind as u8, CODEC_ZSTD_FRAMES]);
        put(12, &self.flags().to_be_bytes());
        put(16, &self.archive_id.0);
        put(32, &self.key_id.0);
        put(48, &self.writer_id.0);
        put(64, self.stream.as_str().as_bytes());
        put(96, &self.set_id.0);
        put(112, &self.seq.to_be_bytes());
        put(120, &self.start.to_be_bytes());
        put(128, &self.end.to_be_bytes());
        put(136, &self.time_min.unwrap_or(NONE_TIME).to_be_bytes());
        put(144, &self.time_max.unwrap_or(NONE_TIME).to_be_bytes());
        put(152, &self.time_high.unwrap_or(NONE_TIME).to_be_bytes());
        put(160, &self.run_seq.to_be_bytes());
        put(168, &self.run_start.to_be_bytes());
        put(176, &self.unsure_seq.unwrap_or(NONE_SEQ).to_be_bytes());
        put(184, &self.plaintext_bytes.to_be_bytes());
        put(192, &self.previous);
        put(224, &self.payload_bytes.to_be_bytes());
        let [last, near] = self.proofs.encode();
        put(232, &last);
        put(240, &self.damage.unwrap_or(0).to_be_bytes());
        put(248, &near);
        out
    }

    fn flags(&self) -> u16 {
        let refill = if self.refill { FLAG_REFILL } else { 0 };
        let proofs = if self.proofs.is_none() {
            0
        } else {
            FLAG_PROOFS
        };
        refill | proofs
    }

    /// Reads the canonical bytes and nothing else: what this returns encodes to the same bytes.
    pub fn decode(bytes: &[u8; HEADER_BYTES]) -> Result<Self, HeaderError> {
        let field = |field, offset| HeaderError::Field { field, offset };
        let u64_at = |at: usize| u64::from_be_bytes(bytes[at..at + 8].try_into().expect("8 bytes"));
        let time_at = |at: usize| Some(u64_at(at) as i64).filter(|&time| time != NONE_TIME);
        let id_at = |at: usize| Id(bytes[at..at + 16].try_into().expect("16 bytes"));
        if &bytes[..8] != MAGIC {
            return Err(HeaderError::Magic);
        }
        let version = u16::from_be_bytes([bytes[8], bytes[9]]);
        if version != FORMAT_VERSION {
            return Err(HeaderError::Version(version));
        }
        let name_bytes = bytes[64..96].split(|&b| b == 0).next().unwrap_or_default();
        let stream = std::str::from_utf8(name_bytes)
            .ok()
            .and_then(StreamName::new);
        let flags = u16::from_be_bytes([bytes[12], bytes[13]]);
        let proofs = match flags & FLAG_PROOFS {
            0 => Proofs::default(),
            _ => Proofs::decode([u64_at(232), u64_at(248)]),
        };
        let header = Self {
            kind: Kind::from_byte(bytes[10]).ok_or(field("kind", 10))?,
            refill: flags & FLAG_REFILL != 0,
            archive_id: id_at(16),
            key_id: id_at(32),
            writer_id: id_at(48),
            stream: stream.ok_or(field("stream", 64))?,
            set_id: id_at(96),
            seq: u64_at(112),
            start: u64_at(120),
            end: u64_at(128),
            time_min: time_at(136),
            time_max: time_at(144),
            time_high: time_at(152),
            run_seq: u64_at(160),
            run_start: u64_at(168),
            unsure_seq: Some(u64_at(176)).filter(|&seq| seq != NONE_SEQ),
            plaintext_bytes: u64_at(184),
            payload_bytes: u64_at(224),
            damage: Some(u64_at(240)).filter(|&at| at != 0),
            proofs,
            previous: bytes[192..224].try_into().expect("32 bytes"),
        };
        if let Some(offset) = header
            .encode()
            .iter()
            .zip(bytes)
            .position(|(ours, theirs)| ours != theirs)
        {
            return Err(field("codec, flags, padding or reserved", offset));
        }
        header.check()
    }

    fn check(self) -> Result<Self, HeaderError> {
        let field = |field, offset| Err(HeaderError::Field { field, offset });
        if self.start > self.end {
            return field("end", 128);
        }
        if self.time_min.is_some() != self.time_max.is_some() || self.time_min > self.time_max {
            return field("time_max", 144);
        }
        if self.time_high < self.time_max {
            return field("time_high", 152);
        }
        if self.plaintext_bytes > PLAINTEXT_BYTES_MAX {
            return field("plaintext_bytes", 184);
        }
        if self.payload_bytes > PAYLOAD_BYTES_MAX {
            return field("payload_bytes", 224);
        }
        if self.kind == Kind::Segment {
            if self.start == self.end {
                return field("end", 128);
            }
            if self.run_seq > self.seq {
                return field("run_seq", 160);
            }
            if self.run_start > self.start
                || (self.run_seq == self.seq && self.run_start != self.start)
            {
                return field("run_start", 168);
            }
            if self
                .unsure_seq
                .is_some_and(|seq| seq > self.seq || seq < self.run_seq)
            {
                return field("unsure_seq", 176);
            }
        }
        if self.kind != Kind::Segment && !self.proofs.is_none() {
            return field("proof", 232);
        }
        let damage_may_lie_in = match self.kind {
            Kind::Segment => self.run_start..self.end,
            _ => 0..0,
        };
        if self
            .damage
            .is_some_and(|at| !damage_may_lie_in.contains(&at))
        {
            return field("damage", 240);
        }
        Ok(self)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn header() -> Header {
        Header {
            kind: Kind::Segment,
            refill: false,
            archive_id: Id([1; 16]),
            key_id: Id([2; 16]),
            writer_id: Id([3; 16]),
            stream: StreamName::new("00000001").unwrap(),
            set_id: Id::default(),
            seq: 5,
            start: 100,
            end: 200,
            time_min: Some(-5),
            time_max: Some(7),
            time_high: Some(9),
            run_seq: 2,
            run_start: 10,
            unsure_seq: Some(4),
            damage: Some(120),
            proofs: Proofs::default(),
            plaintext_bytes: 100,
            payload_bytes: 60,
            previous: [4; 32],
        }
    }

    #[test]
    fn a_header_survives_the_way_there_and_back() {
        assert_eq!(Header::decode(&header().encode()), Ok(header()));
    }

    #[test]
    fn every_byte_that_no_writer_writes_is_refused() {
        let reserved = (14..16).chain(232..240).chain(248..HEADER_BYTES);
        for offset in reserved.chain([11, 12]) {
            let mut bytes = header().encode();
            bytes[offset] ^= 0x80;
            assert!(Header::decode(&bytes).is_err(), "offset {offset}");
        }
    }

    #[test]
    fn proofs_stand_in_a_segment_that_says_so_and_nowhere_else() {
        for (last, near) in [(7, 0), (0, 8), (7, 8)] {
            let proofs = Proofs::decode([last, near]);
            let segment = Header { proofs, ..header() };
            let mut bytes = segment.encode();
            assert_eq!(Header::decode(&bytes), Ok(segment));
            bytes[13] = 0;
            assert!(Header::decode(&bytes).is_err(), "not announced");
            let part = Header {
                kind: Kind::Part,
                damage: None,
                proofs,
                ..header()
            };
            assert!(Header::decode(&part.encode()).is_err(), "in a part");
        }
        let mut bytes = header().encode();
        bytes[13] = 4;
        assert!(Header::decode(&bytes).is_err(), "announced and not there");
    }

    #[test]
    fn a_later_format_is_refused_by_its_number() {
        let mut bytes = header().encode();
        bytes[9] = 2;
        assert_eq!(Header::decode(&bytes), Err(HeaderError::Version(2)));
    }

    #[test]
    fn damage_lies_in_the_run_of_a_segment_and_nowhere_else() {
        for (kind, damage, valid) in [
            (Kind::Segment, 10, true),
            (Kind::Segment, 199, true),
            (Kind::Segment, 9, false),
            (Kind::Segment, 200, false),
            (Kind::Part, 120, false),
        ] {
            let header = Header {
                kind,
                damage: Some(damage),
                ..header()
            };
            let read = Header::decode(&header.encode());
            assert_eq!(read.is_ok(), valid, "{kind:?} {damage}");
        }
    }

    #[test]
    fn a_range_that_runs_backwards_is_refused() {
        let backwards = Header {
            start: 300,
            run_start: 10,
            ..header()
        };
        assert!(Header::decode(&backwards.encode()).is_err());
    }
}
