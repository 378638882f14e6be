//! BSON as bytes: elements are found, never decoded, so that what the source wrote is what the target gets, field order and
//! odd values included. Everything else of the fold reads and writes documents through here.

use std::fmt;

pub use super::builder::Builder;

/// No document of a server is larger: its own limit is 16 MiB and a little. What would grow beyond is damage.
pub const DOCUMENT_BYTES_MAX: usize = 64 * 1024 * 1024;

/// The type bytes that the fold tells apart.
pub mod kind {
    /// A 64-bit float.
    pub const DOUBLE: u8 = 0x01;
    /// Text.
    pub const STRING: u8 = 0x02;
    /// A document.
    pub const DOCUMENT: u8 = 0x03;
    /// An array.
    pub const ARRAY: u8 = 0x04;
    /// Bytes with a subtype.
    pub const BINARY: u8 = 0x05;
    /// 12 bytes that the driver made.
    pub const OBJECT_ID: u8 = 0x07;
    /// True or false.
    pub const BOOL: u8 = 0x08;
    /// Milliseconds since 1970.
    pub const DATE: u8 = 0x09;
    /// Nothing.
    pub const NULL: u8 = 0x0a;
    /// A regular expression.
    pub const REGEX: u8 = 0x0b;
    /// A 32-bit integer.
    pub const INT32: u8 = 0x10;
    /// A cluster time.
    pub const TIMESTAMP: u8 = 0x11;
    /// A 64-bit integer.
    pub const INT64: u8 = 0x12;
    /// A decimal of 128 bits.
    pub const DECIMAL: u8 = 0x13;
}

/// Bytes that are not BSON. It carries nothing of them.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("not a BSON document")]
pub struct Malformed;

/// A document or an array: its length is right and its last byte is zero.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Document<'a>(&'a [u8]);

/// A value of some type, as it stands in a document.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Value<'a> {
    /// The type byte.
    pub kind: u8,
    /// What follows the name.
    pub bytes: &'a [u8],
}

/// A named value.
#[derive(Clone, Copy, PartialEq, Eq)]
pub struct Element<'a> {
    /// The name without its zero; not necessarily UTF-8.
    pub name: &'a [u8],
    /// The value.
    pub value: Value<'a>,
    /// Type byte, name, zero, value.
    pub raw: &'a [u8],
}

impl fmt::Debug for Document<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Document({} bytes)", self.0.len())
    }
}

impl fmt::Debug for Value<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            f,
            "Value(kind {:#04x}, {} bytes)",
            self.kind,
            self.bytes.len()
        )
    }
}

impl fmt::Debug for Element<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Element({:?})", self.value)
    }
}

impl<'a> Document<'a> {
    /// `bytes` as a document; its elements are checked as they are walked.
    pub fn new(bytes: &'a [u8]) -> Result<Self, Malformed> {
        if length(bytes)? == bytes.len() && bytes.last() == Some(&0) {
            Ok(Self(bytes))
        } else {
            Err(Malformed)
        }
    }

    /// One without elements.
    #[must_use]
    pub const fn empty() -> Document<'static> {
        Document(&[5, 0, 0, 0, 0])
    }

    /// The document that `bytes` begin with, and what follows it.
    pub fn split(bytes: &'a [u8]) -> Result<(Self, &'a [u8]), Malformed> {
        let (first, rest) = bytes.split_at_checked(length(bytes)?).ok_or(Malformed)?;
        Ok((Self::new(first)?, rest))
    }

    /// All of it.
    #[must_use]
    pub fn bytes(self) -> &'a [u8] {
        self.0
    }

    /// Its elements in order.
    #[must_use]
    pub fn elements(self) -> Elements<'a> {
        Elements {
            rest: &self.0[4..self.0.len() - 1],
        }
    }

    /// The first value of that name.
    pub fn get(self, name: &str) -> Result<Option<Value<'a>>, Malformed> {
        for element in self.elements() {
            let element = element?;
            if element.name == name.as_bytes() {
                return Ok(Some(element.value));
            }
        }
        Ok(None)
    }
}

/// Walks the elements of a document.
#[derive(Clone, Debug)]
pub struct Elements<'a> {
    rest: &'a [u8],
}

impl<'a> Iterator for Elements<'a> {
    type Item = Result<Element<'a>, Malformed>;

    #[inline]
    fn next(&mut self) -> Option<Self::Item> {
        let (&kind, after) = self.rest.split_first()?;
        let element = element(kind, self.rest, after);
        self.rest = match &element {
            Ok(element) => &self.rest[element.raw.len()..],
            Err(Malformed) => &[],
        };
        Some(element)
    }
}

#[inline]
fn element<'a>(kind: u8, all: &'a [u8], after: &'a [u8]) -> Result<Element<'a>, Malformed> {
    let name_bytes = after.iter().position(|byte| *byte == 0).ok_or(Malformed)?;
    let (name, value) = (&after[..name_bytes], &after[name_bytes + 1..]);
    let bytes = value.get(..value_bytes(kind, value)?).ok_or(Malformed)?;
    let value = Value { kind, bytes };
    if let kind::DOCUMENT | kind::ARRAY = kind {
        Document::new(bytes)?;
    }
    Ok(Element {
        name,
        value,
        raw: &all[..2 + name_bytes + bytes.len()],
    })
}

/// How long a value of type `kind` at the beginning of `bytes` is.
fn value_bytes(kind: u8, bytes: &[u8]) -> Result<usize, Malformed> {
    Ok(match kind {
        0x06 | 0x0a | 0x7f | 0xff => 0,
        0x08 => 1,
        0x10 => 4,
        0x01 | 0x09 | 0x11 | 0x12 => 8,
        0x07 => 12,
        0x13 => 16,
        0x02 | 0x0d | 0x0e => string_bytes(bytes)?,
        0x0c => string_bytes(bytes)? + 12,
        0x05 => 5 + size(bytes)?,
        0x03 | 0x04 | 0x0f => length(bytes)?,
        0x0b => {
            let mut ends = bytes
                .iter()
                .enumerate()
                .filter(|(_, byte)| **byte == 0)
                .map(|(at, _)| at);
            ends.nth(1).ok_or(Malformed)? + 1
        }
        _ => return Err(Malformed),
    })
}

/// The length that a document begins with.
fn length(bytes: &[u8]) -> Result<usize, Malformed> {
    match size(bytes)? {
        length @ 5..=DOCUMENT_BYTES_MAX => Ok(length),
        _ => Err(Malformed),
    }
}

fn size(bytes: &[u8]) -> Result<usize, Malformed> {
    let size = bytes.first_chunk::<4>().ok_or(Malformed)?;
    usize::try_from(i32::from_le_bytes(*size)).map_err(|_| Malformed)
}

fn string_bytes(bytes: &[u8]) -> Result<usize, Malformed> {
    match size(bytes)? {
        0 => Err(Malformed),
        length if bytes.get(3 + length) == Some(&0) => Ok(4 + length),
        _ => Err(Malformed),
    }
}

impl<'a> Value<'a> {
    /// A document or an array.
    pub fn document(self) -> Option<Document<'a>> {
        matches!(self.kind, kind::DOCUMENT | kind::ARRAY).then_some(Document(self.bytes))
    }

    /// Text that is UTF-8.
    pub fn text(self) -> Option<&'a str> {
        let text = self.bytes.get(4..self.bytes.len().checked_sub(1)?)?;
        (self.kind == kind::STRING)
            .then(|| std::str::from_utf8(text).ok())
            .flatten()
    }

    /// A cluster time, `seconds << 32 | increment`.
    pub fn timestamp(self) -> Option<u64> {
        self.eight(kind::TIMESTAMP).map(u64::from_le_bytes)
    }

    /// Milliseconds since 1970.
    pub fn date(self) -> Option<i64> {
        self.eight(kind::DATE).map(i64::from_le_bytes)
    }

    /// An integer, or a float that is one.
    pub fn integer(self) -> Option<i64> {
        match self.kind {
            kind::INT32 => self
                .bytes
                .first_chunk()
                .map(|bytes| i32::from_le_bytes(*bytes).into()),
            kind::INT64 => self.eight(kind::INT64).map(i64::from_le_bytes),
            kind::DOUBLE => self.double().and_then(whole),
            _ => None,
        }
    }

    /// A float.
    pub fn double(self) -> Option<f64> {
        self.eight(kind::DOUBLE).map(f64::from_le_bytes)
    }

    /// What MongoDB takes for true: everything but false, zero, null and undefined.
    #[must_use]
    pub fn is_true(self) -> bool {
        match self.kind {
            kind::BOOL => self.bytes == [1],
            kind::DOUBLE => self.double() != Some(0.0),
            kind::INT32 | kind::INT64 => self.integer() != Some(0),
            kind::NULL | 0x06 => false,
            _ => true,
        }
    }

    /// A UUID.
    pub fn uuid(self) -> Option<[u8; 16]> {
        match (self.kind, self.bytes) {
            (kind::BINARY, [16, 0, 0, 0, 4, uuid @ ..]) => uuid.try_into().ok(),
            _ => None,
        }
    }

    fn eight(self, kind: u8) -> Option<[u8; 8]> {
        (self.kind == kind)
            .then(|| self.bytes.try_into().ok())
            .flatten()
    }
}

/// `number` as an integer, if it is one that 64 bits hold.
#[must_use]
pub fn whole(number: f64) -> Option<i64> {
    const LIMIT: f64 = 9_223_372_036_854_775_808.0;
    // The cast is exact: the number has no fraction and lies within the range.
    (number.fract() == 0.0 && (-LIMIT..LIMIT).contains(&number)).then_some(number as i64)
}

#[cfg(test)]
#[path = "raw_tests.rs"]
mod tests;
