//! Opening: the bytes of an object in, plaintext out, nothing trusted before it is authenticated.

use std::ops::Range;

use bytes::Bytes;
use ed25519_dalek::{Signature, Verifier, VerifyingKey};

use super::cobblestone::{MessageKeys, chunk_range, chunks_bytes};
use super::error::{Fault, ObjectError};
use super::frames::{Footer, decompress};
use super::header::{Header, Kind};
use super::name::{Id, StreamName};
use super::preamble::{PREAMBLE_BYTES, Preamble, TRAILER_BYTES, object_bytes};
use super::seal::OBJECT_DOMAIN;
use crate::keys::DataKey;

/// What the object under a key must be; compared with its header, so that no two objects can be swapped.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Expected {
    /// The archive.
    pub archive_id: Id,
    /// What it is.
    pub kind: Kind,
    /// Its stream, where the key says it.
    pub stream: Option<StreamName>,
    /// Its backup, zero if it belongs to none.
    pub set_id: Id,
    /// Its number.
    pub seq: u64,
}

impl Expected {
    fn check(&self, header: &Header) -> Result<(), Fault> {
        let compare = |field, found: String, wanted: String| {
            if found == wanted {
                Ok(())
            } else {
                Err(Fault::Misplaced {
                    field,
                    found,
                    wanted,
                })
            }
        };
        compare(
            "archive id",
            header.archive_id.to_string(),
            self.archive_id.to_string(),
        )?;
        compare(
            "kind",
            format!("{:?}", header.kind),
            format!("{:?}", self.kind),
        )?;
        if let Some(stream) = &self.stream {
            compare("stream", header.stream.to_string(), stream.to_string())?;
        }
        compare("set id", header.set_id.to_string(), self.set_id.to_string())?;
        compare("number", header.seq.to_string(), self.seq.to_string())
    }

    /// True if `bytes`, the beginning of an object of `length` bytes, are the preamble of what must be there.
    #[must_use]
    pub fn is_begun_by(&self, bytes: &[u8], length: u64, writer: &VerifyingKey) -> bool {
        self.preamble("", bytes, writer)
            .is_ok_and(|preamble| length == object_bytes(preamble.header.payload_bytes))
    }

    /// Reads and authenticates the preamble of the object under `key` and compares it with what it must be.
    pub fn preamble(
        &self,
        key: &str,
        bytes: &[u8],
        writer: &VerifyingKey,
    ) -> Result<Preamble, ObjectError> {
        let preamble = Preamble::decode(bytes, writer);
        preamble
            .and_then(|preamble| self.check(&preamble.header).map(|()| preamble))
            .map_err(|fault| ObjectError {
                key: key.into(),
                fault,
            })
    }
}

/// The whole bytes of an object whose preamble is authentic and whose length is right.
#[derive(Clone, Debug)]
pub struct Object {
    key: String,
    preamble: Preamble,
    bytes: Bytes,
    writer: VerifyingKey,
}

/// What an object held.
#[derive(Clone, Debug)]
pub struct Opened {
    /// Its header.
    pub header: Header,
    /// The engine's summary.
    pub summary: Vec<u8>,
    footer: Footer,
    payload: Vec<u8>,
    key: String,
}

impl Object {
    /// Takes the bytes found under `key`.
    pub fn new(
        key: &str,
        bytes: Bytes,
        expected: &Expected,
        writer: &VerifyingKey,
    ) -> Result<Self, ObjectError> {
        let preamble = expected.preamble(key, &bytes, writer)?;
        let length = object_bytes(preamble.header.payload_bytes);
        if bytes.len() as u64 != length {
            let fault = Fault::Length {
                actual: bytes.len() as u64,
                expected: length,
            };
            return Err(ObjectError {
                key: key.into(),
                fault,
            });
        }
        Ok(Self {
            key: key.into(),
            preamble,
            bytes,
            writer: *writer,
        })
    }

    /// Its header.
    #[must_use]
    pub fn header(&self) -> &Header {
        &self.preamble.header
    }

    /// Checks hash and signature over all of it, without a key, and returns the hash.
    pub fn verify(&self) -> Result<[u8; 32], ObjectError> {
        let hash_at = self.bytes.len() - TRAILER_BYTES;
        let (body, trailer) = self.bytes.split_at(hash_at);
        let (hash, signature) = trailer
            .split_first_chunk::<32>()
            .expect("a trailer begins with a hash");
        if blake3::hash(body) != *hash {
            return Err(self.fault(Fault::Hash {
                offset: hash_at as u64,
            }));
        }
        let signature = Signature::from_slice(signature).expect("a trailer ends with a signature");
        self.writer
            .verify(&[OBJECT_DOMAIN, hash].concat(), &signature)
            .map_err(|_| {
                self.fault(Fault::Signature {
                    offset: hash_at as u64 + 32,
                })
            })?;
        Ok(*hash)
    }

    /// Opens every chunk, then checks hash and signature.
    pub fn open(self, data_key: &DataKey) -> Result<Opened, ObjectError> {
        let header = &self.preamble.header;
        let keys = message_keys(&self.preamble, data_key).map_err(|fault| self.fault(fault))?;
        let total = chunks_bytes(header.payload_bytes);
        let sealed = &self.bytes[PREAMBLE_BYTES..PREAMBLE_BYTES + total as usize];
        let mut payload = sealed.to_vec();
        open_chunks(&keys, 0, &mut payload, 0).map_err(|fault| self.fault(fault))?;
        self.verify()?;
        let footer = Footer::decode(&payload, header.payload_bytes, header.plaintext_bytes);
        let mut footer = footer.map_err(|reason| self.fault(Fault::Footer(reason)))?;
        let summary = std::mem::take(&mut footer.summary);
        Ok(Opened {
            header: header.clone(),
            summary,
            footer,
            payload,
            key: self.key,
        })
    }

    fn fault(&self, fault: Fault) -> ObjectError {
        ObjectError {
            key: self.key.clone(),
            fault,
        }
    }
}

impl Opened {
    /// The plaintext, all of it.
    pub fn plaintext(&self) -> Result<Vec<u8>, ObjectError> {
        let mut out = Vec::with_capacity(self.header.plaintext_bytes as usize);
        for index in 0..self.footer.frames.len() {
            self.frame_onto(index, &mut out)?;
        }
        Ok(out)
    }

    /// Number of frames; each unpacks on its own.
    #[must_use]
    pub fn frames(&self) -> usize {
        self.footer.frames.len()
    }

    /// Where one frame's bytes lie in the plaintext.
    #[must_use]
    pub fn frame_range(&self, index: usize) -> Range<u64> {
        let place = &self.footer.frames[index];
        place.plaintext_start..place.plaintext_start + place.plaintext_bytes as u64
    }

    /// Unpacks one frame into `out`, which is emptied first: whoever goes through many uses the same memory for all.
    pub fn frame_into(&self, index: usize, out: &mut Vec<u8>) -> Result<(), ObjectError> {
        out.clear();
        self.frame_onto(index, out)
    }

    /// The plaintext bytes of `range`; unpacks only the frames that hold them.
    pub fn range(&self, range: Range<u64>) -> Result<Vec<u8>, ObjectError> {
        let places = &self.footer.frames;
        let first = places.partition_point(|place| {
            place.plaintext_start + place.plaintext_bytes as u64 <= range.start
        });
        let end = places.partition_point(|place| place.plaintext_start < range.end);
        let start = places.get(first).map_or(0, |place| place.plaintext_start);
        let mut out = Vec::new();
        for index in first..end {
            self.frame_onto(index, &mut out)?;
        }
        let cut = range.start.saturating_sub(start)..range.end.saturating_sub(start);
        out.truncate(cut.end.min(out.len() as u64) as usize);
        out.drain(..cut.start.min(out.len() as u64) as usize);
        Ok(out)
    }

    fn frame_onto(&self, index: usize, out: &mut Vec<u8>) -> Result<(), ObjectError> {
        let place = &self.footer.frames[index];
        let start = place.payload_start as usize;
        decompress(
            &self.payload[start..start + place.compressed_bytes],
            place.plaintext_bytes,
            out,
        )
        .map_err(|reason| ObjectError {
            key: self.key.clone(),
            fault: Fault::Frame { index, reason },
        })
    }
}

/// The keys of the object, or [`Fault::WrongKey`]: the preamble is authentic, so it is the key that is wrong.
fn message_keys(preamble: &Preamble, data_key: &DataKey) -> Result<MessageKeys, Fault> {
    let keys = MessageKeys::derive(data_key.secret(), &preamble.salt, &preamble.header_bytes);
    let right =
        data_key.id() == preamble.header.key_id && keys.commitment() == &preamble.commitment;
    if right {
        Ok(keys)
    } else {
        Err(Fault::WrongKey {
            key_id: preamble.header.key_id,
        })
    }
}

/// Opens consecutive chunks, of which the first is number `first`, in place; leaves the plaintext, contiguous.
fn open_chunks(
    keys: &MessageKeys,
    first: u64,
    sealed: &mut Vec<u8>,
    skip: u64,
) -> Result<(), Fault> {
    let total = sealed.len() as u64;
    let (mut index, mut write) = (0, 0);
    loop {
        let range = chunk_range(index, total);
        if range.start >= total {
            break;
        }
        let (start, end) = (range.start as usize, range.end as usize);
        if !keys.open_chunk(first + index, &mut sealed[start..end]) {
            let offset = PREAMBLE_BYTES as u64 + chunk_range(first + index, u64::MAX).start;
            return Err(Fault::Chunk {
                index: first + index,
                offset,
            });
        }
        let text_end = end - super::cobblestone::TAG_BYTES;
        sealed.copy_within(start..text_end, write);
        write += text_end - start;
        index += 1;
    }
    sealed.truncate(write);
    sealed.drain(..skip as usize);
    Ok(())
}

/// Opens a piece of an object that was read by range: `payload` bytes, wherever they lie in the object.
pub(crate) struct Ranged<'a> {
    key: &'a str,
    preamble: &'a Preamble,
    keys: MessageKeys,
}

impl<'a> Ranged<'a> {
    pub(crate) fn new(
        key: &'a str,
        preamble: &'a Preamble,
        data_key: &DataKey,
    ) -> Result<Self, ObjectError> {
        let keys = message_keys(preamble, data_key).map_err(|fault| ObjectError {
            key: key.into(),
            fault,
        })?;
        Ok(Self {
            key,
            preamble,
            keys,
        })
    }

    /// The bytes of the object that have to be read for `payload`.
    pub(crate) fn span(&self, payload: &std::ops::Range<u64>) -> std::ops::Range<u64> {
        let total = chunks_bytes(self.preamble.header.payload_bytes);
        let chunk_bytes = super::cobblestone::CHUNK_BYTES as u64;
        let first = chunk_range(payload.start / chunk_bytes, total);
        let last = chunk_range(payload.end.max(1).div_ceil(chunk_bytes) - 1, total);
        PREAMBLE_BYTES as u64 + first.start..PREAMBLE_BYTES as u64 + last.end
    }

    /// Opens the bytes of [`Self::span`] and returns exactly `payload`.
    pub(crate) fn open(
        &self,
        payload: &std::ops::Range<u64>,
        sealed: Bytes,
    ) -> Result<Vec<u8>, ObjectError> {
        let span = self.span(payload);
        if sealed.len() as u64 != span.end - span.start {
            let fault = Fault::Length {
                actual: span.start + sealed.len() as u64,
                expected: span.end,
            };
            return Err(ObjectError {
                key: self.key.into(),
                fault,
            });
        }
        let chunk_bytes = super::cobblestone::CHUNK_BYTES as u64;
        let first = payload.start / chunk_bytes;
        let mut text = sealed.to_vec();
        open_chunks(
            &self.keys,
            first,
            &mut text,
            payload.start - first * chunk_bytes,
        )
        .map_err(|fault| ObjectError {
            key: self.key.into(),
            fault,
        })?;
        text.truncate((payload.end - payload.start) as usize);
        Ok(text)
    }
}
