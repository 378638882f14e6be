//! The payload of an object: independent zstd frames, then a footer that maps plaintext to frames.
//!
//! Frames are compressed while the segment is still being received, on every core; the footer is what ranged reads
//! start from. All of it is sealed: it is trusted only after authentication, and still bounded when read.

use std::cell::RefCell;
use std::io::Cursor;
use std::ops::RangeInclusive;

use zstd::bulk::Compressor;
use zstd::zstd_safe::CParameter;

/// Plaintext bytes of a frame at most.
pub const FRAME_BYTES_MAX: usize = 1 << 20;
/// Bytes of the end of the footer.
pub(super) const FOOTER_TAIL_BYTES: usize = 16;
/// Bytes of a summary at most.
pub const SUMMARY_BYTES_MAX: usize = 1 << 20;

const FOOTER_MAGIC: &[u8; 8] = b"PITRFOOT";
const ENTRY_BYTES: usize = 8;

/// The levels at which zstd by itself looks for matches of six or seven bytes only.
const FAST_LEVELS: RangeInclusive<i32> = 1..=2;
/// Records of a log repeat in short pieces: at these levels WAL takes up to a fifth less room with matches of five bytes
/// (docs/design.md).
const LOG_MATCH_BYTES_MIN: u32 = 5;
/// A table of 32 KiB stays in a core's first cache: a twentieth less work for the same room.
const LOG_HASH_LOG: u32 = 13;
/// Half of that takes another twentieth, for a fiftieth more room.
const LOG_HASH_LOG_IN_A_HURRY: u32 = 12;
/// In zstd's fast strategy any target length means that literals are stored as they are: a tenth less work for up to a tenth more room.
const LOG_LITERALS_STORED: u32 = 1;

#[derive(Clone, Copy, PartialEq, Eq)]
enum Setting {
    /// Zstd's own parameters.
    Plain { level: i32 },
    /// Those for records of a log. In a hurry, speed counts for more than room.
    Log { level: i32, hurry: bool },
}

impl Setting {
    fn compressor(self) -> Compressor<'static> {
        let (Self::Plain { level } | Self::Log { level, .. }) = self;
        let mut made = Compressor::new(level).expect("zstd makes a context");
        let mut set = |parameter| {
            made.set_parameter(parameter)
                .expect("zstd has this parameter");
        };
        if let Self::Log { hurry, .. } = self
            && FAST_LEVELS.contains(&level)
        {
            set(CParameter::MinMatch(LOG_MATCH_BYTES_MIN));
            if hurry {
                set(CParameter::HashLog(LOG_HASH_LOG_IN_A_HURRY));
                set(CParameter::TargetLength(LOG_LITERALS_STORED));
            } else {
                set(CParameter::HashLog(LOG_HASH_LOG));
            }
        }
        made
    }
}

/// One compressed frame.
#[derive(Clone, Debug)]
pub struct Frame {
    plaintext_bytes: u32,
    compressed: Vec<u8>,
}

impl Frame {
    /// Compresses at most [`FRAME_BYTES_MAX`] bytes at the given zstd level.
    ///
    /// # Panics
    /// If `plaintext` is longer than a frame may be.
    #[must_use]
    pub fn compress(plaintext: &[u8], level: i32) -> Self {
        Self::made(plaintext, Setting::Plain { level })
    }

    /// The same for records of a log; in a hurry for a little more room and less work.
    ///
    /// # Panics
    /// If `plaintext` is longer than a frame may be.
    #[must_use]
    pub(crate) fn compress_log(plaintext: &[u8], level: i32, hurry: bool) -> Self {
        Self::made(plaintext, Setting::Log { level, hurry })
    }

    fn made(plaintext: &[u8], setting: Setting) -> Self {
        /// A context for each setting in use, and the room that the longest result takes: made once for each compressing thread.
        #[derive(Default)]
        struct Kit {
            compressors: Vec<(Setting, Compressor<'static>)>,
            room: Vec<u8>,
        }
        thread_local! {
            static KIT: RefCell<Kit> = RefCell::default();
        }
        assert!(
            plaintext.len() <= FRAME_BYTES_MAX,
            "a frame holds at most {FRAME_BYTES_MAX} bytes"
        );
        let compressed = KIT.with_borrow_mut(|Kit { compressors, room }| {
            room.resize(zstd::zstd_safe::compress_bound(FRAME_BYTES_MAX), 0);
            let known = compressors.iter().position(|(made, _)| *made == setting);
            let known = known.unwrap_or_else(|| {
                compressors.push((setting, setting.compressor()));
                compressors.len() - 1
            });
            let bytes = compressors[known]
                .1
                .compress_to_buffer(plaintext, room)
                .expect("the room is zstd's own bound");
            room[..bytes].to_vec()
        });
        Self {
            plaintext_bytes: plaintext.len() as u32,
            compressed,
        }
    }

    /// Bytes that the frame takes in the payload.
    #[must_use]
    pub fn compressed_bytes(&self) -> usize {
        self.compressed.len()
    }

    /// Bytes that it stands for.
    #[must_use]
    pub fn plaintext_bytes(&self) -> usize {
        self.plaintext_bytes as usize
    }
}

/// Lays frames and summary out as a payload.
///
/// # Panics
/// If the summary is longer than [`SUMMARY_BYTES_MAX`].
#[must_use]
pub(crate) fn encode_payload(frames: &[Frame], summary: &[u8]) -> Vec<u8> {
    assert!(summary.len() <= SUMMARY_BYTES_MAX, "a summary is small");
    let frames_bytes: usize = frames.iter().map(Frame::compressed_bytes).sum();
    let mut out = Vec::with_capacity(
        frames_bytes + frames.len() * ENTRY_BYTES + summary.len() + FOOTER_TAIL_BYTES,
    );
    for frame in frames {
        out.extend_from_slice(&frame.compressed);
    }
    for frame in frames {
        out.extend_from_slice(&frame.plaintext_bytes.to_be_bytes());
        out.extend_from_slice(&(frame.compressed.len() as u32).to_be_bytes());
    }
    out.extend_from_slice(summary);
    out.extend_from_slice(&(frames.len() as u32).to_be_bytes());
    out.extend_from_slice(&(summary.len() as u32).to_be_bytes());
    out.extend_from_slice(FOOTER_MAGIC);
    out
}

/// Where one frame lies, and what it stands for.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct FramePlace {
    /// First plaintext byte.
    pub plaintext_start: u64,
    /// Plaintext bytes.
    pub plaintext_bytes: usize,
    /// Offset of the frame in the payload.
    pub payload_start: u64,
    /// Bytes in the payload.
    pub compressed_bytes: usize,
}

/// The footer of a payload.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Footer {
    /// The frames in order.
    pub frames: Vec<FramePlace>,
    /// What the engine notes about the plaintext; its own format.
    pub summary: Vec<u8>,
}

/// Bytes of the footer, read from its last [`FOOTER_TAIL_BYTES`]; `None` if they are not a footer's.
#[must_use]
pub(super) fn footer_bytes(tail: &[u8; FOOTER_TAIL_BYTES]) -> Option<u64> {
    let count = u32::from_be_bytes(tail[..4].try_into().ok()?);
    let summary = u32::from_be_bytes(tail[4..8].try_into().ok()?);
    let sane = &tail[8..] == FOOTER_MAGIC && summary as usize <= SUMMARY_BYTES_MAX;
    sane.then(|| {
        u64::from(count) * ENTRY_BYTES as u64 + u64::from(summary) + FOOTER_TAIL_BYTES as u64
    })
}

impl Footer {
    /// Reads the footer from `bytes`, the last bytes of a payload of `payload_bytes` that stands for
    /// `plaintext_bytes`. The reason if it is not valid, or if `bytes` does not hold all of it.
    pub fn decode(
        bytes: &[u8],
        payload_bytes: u64,
        plaintext_bytes: u64,
    ) -> Result<Self, &'static str> {
        let tail = bytes
            .last_chunk::<FOOTER_TAIL_BYTES>()
            .ok_or("the footer is cut off")?;
        let length = footer_bytes(tail).ok_or("the footer's end is not valid")?;
        let frames_bytes = payload_bytes
            .checked_sub(length)
            .ok_or("the footer is longer than the payload")?;
        let start = (bytes.len() as u64)
            .checked_sub(length)
            .ok_or("the footer is cut off")? as usize;
        let count = u32::from_be_bytes(tail[..4].try_into().expect("4 bytes")) as usize;
        let (entries, rest) =
            bytes[start..bytes.len() - FOOTER_TAIL_BYTES].split_at(count * ENTRY_BYTES);
        let mut frames = Vec::with_capacity(count);
        let (mut plaintext, mut payload) = (0_u64, 0_u64);
        for entry in entries.chunks_exact(ENTRY_BYTES) {
            let plaintext_len =
                u32::from_be_bytes(entry[..4].try_into().expect("4 bytes")) as usize;
            let compressed_len =
                u32::from_be_bytes(entry[4..].try_into().expect("4 bytes")) as usize;
            if !(1..=FRAME_BYTES_MAX).contains(&plaintext_len) {
                return Err("a frame is longer than a frame may be");
            }
            frames.push(FramePlace {
                plaintext_start: plaintext,
                plaintext_bytes: plaintext_len,
                payload_start: payload,
                compressed_bytes: compressed_len,
            });
            plaintext += plaintext_len as u64;
            payload += compressed_len as u64;
        }
        if payload != frames_bytes || plaintext != plaintext_bytes {
            return Err("the frames do not add up to the lengths in the header");
        }
        Ok(Self {
            frames,
            summary: rest.to_vec(),
        })
    }
}

/// Decompresses one frame onto the end of `out`. The reason if it does not hold exactly `plaintext_bytes`.
pub(crate) fn decompress(
    frame: &[u8],
    plaintext_bytes: usize,
    out: &mut Vec<u8>,
) -> Result<(), &'static str> {
    thread_local! {
        static DECOMPRESSOR: RefCell<Option<zstd::bulk::Decompressor<'static>>> = const { RefCell::new(None) };
    }
    let at = out.len();
    out.reserve(plaintext_bytes);
    // Behind what is there, into room that need not be zeroed first.
    let mut room = Cursor::new(std::mem::take(out));
    room.set_position(at as u64);
    let written = DECOMPRESSOR.with_borrow_mut(|slot| {
        let decompressor = slot
            .get_or_insert_with(|| zstd::bulk::Decompressor::new().expect("zstd makes a context"));
        decompressor.decompress_to_buffer(frame, &mut room)
    });
    *out = room.into_inner();
    match written {
        Ok(bytes) if bytes == plaintext_bytes => Ok(()),
        Ok(bytes) if bytes < plaintext_bytes => Err("it holds fewer bytes than the footer says"),
        // The room may have been larger than what was asked for.
        Ok(_) | Err(_) => Err("it does not decompress to the length in the footer"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn a_log_whose_records_repeat_in_short_pieces_takes_less_room_and_unpacks_to_itself() {
        let mut noise = blake3::Hasher::new().finalize_xof();
        let words: Vec<[u8; 5]> = (0..64)
            .map(|_| {
                let mut word = [0; 5];
                noise.fill(&mut word);
                word
            })
            .collect();
        let mut picks = vec![0; 20_000];
        noise.fill(&mut picks);
        let log: Vec<u8> = picks
            .iter()
            .flat_map(|pick| words[usize::from(pick % 64)])
            .collect();
        let in_a_hurry = |log: &[u8], level| Frame::compress_log(log, level, true);
        let at_leisure = |log: &[u8], level| Frame::compress_log(log, level, false);
        // In turns: one thread compresses all kinds.
        let sizes: Vec<_> = [Frame::compress, at_leisure, in_a_hurry]
            .repeat(2)
            .iter()
            .map(|compress| {
                let frame = compress(&log, 1);
                let mut out = Vec::new();
                decompress(&frame.compressed, log.len(), &mut out).unwrap();
                assert!(out == log);
                frame.compressed_bytes()
            })
            .collect();
        assert!(sizes[1] < sizes[0] * 9 / 10, "{sizes:?}");
        assert!(sizes[1] < sizes[2] && sizes[2] < sizes[0], "{sizes:?}");
        assert_eq!(sizes[..3], sizes[3..]);
    }

    #[test]
    fn a_frame_that_unpacks_to_more_than_it_says_is_refused() {
        let bomb = Frame::compress(&vec![0; FRAME_BYTES_MAX], 1);
        let mut out = Vec::new();
        assert!(decompress(&bomb.compressed, 1000, &mut out).is_err());
        assert!(decompress(&bomb.compressed, FRAME_BYTES_MAX, &mut Vec::new()).is_ok());
    }

    proptest! {
        #[test]
        fn any_bytes_are_a_footer_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..300), whole in any::<u64>()) {
            let _ = Footer::decode(&bytes, whole, whole);
            let mut magic = bytes;
            magic.extend_from_slice(FOOTER_MAGIC);
            let _ = Footer::decode(&magic, magic.len() as u64, whole);
        }

        #[test]
        fn frames_are_found_again(pieces in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 1..100), 0..9), summary in proptest::collection::vec(any::<u8>(), 0..50)) {
            let frames: Vec<_> = pieces.iter().map(|piece| Frame::compress(piece, 1)).collect();
            let payload = encode_payload(&frames, &summary);
            let plaintext: u64 = pieces.iter().map(|piece| piece.len() as u64).sum();
            let footer = Footer::decode(&payload, payload.len() as u64, plaintext).unwrap();
            prop_assert_eq!(&footer.summary, &summary);
            let mut out = Vec::new();
            for place in &footer.frames {
                let start = place.payload_start as usize;
                decompress(&payload[start..start + place.compressed_bytes], place.plaintext_bytes, &mut out).unwrap();
            }
            prop_assert_eq!(out, pieces.concat());
        }
    }
}
