//! BSON as bytes: elements are found, never decoded, so that what the source wrote is what the target gets, field order and
//! odd values included. Everything else of the fold reads and writes documents through here.

use std::fmt;

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

/// Writes documents. Nesting is the caller's: what is opened is closed.
#[derive(Debug, Default)]
pub struct Builder {
    bytes: Vec<u8>,
    open: Vec<usize>,
}

impl Builder {
    /// With the document itself open.
    #[must_use]
    pub fn with_capacity(bytes: usize) -> Self {
        let mut builder = Self {
            bytes: Vec::with_capacity(bytes),
            open: Vec::new(),
        };
        builder.begin();
        builder
    }

    /// An empty one.
    #[must_use]
    pub fn new() -> Self {
        Self::with_capacity(64)
    }

    fn begin(&mut self) {
        self.open.push(self.bytes.len());
        self.bytes.extend_from_slice(&[0; 4]);
    }

    fn end(&mut self) {
        self.bytes.push(0);
        let start = self.open.pop().expect("what is closed was opened");
        let length = i32::try_from(self.bytes.len() - start).unwrap_or(i32::MAX);
        self.bytes[start..start + 4].copy_from_slice(&length.to_le_bytes());
    }

    /// How long it is so far.
    #[must_use]
    pub fn written(&self) -> usize {
        self.bytes.len()
    }

    /// Copies an element as it is.
    pub fn element(&mut self, element: Element<'_>) -> &mut Self {
        self.bytes.extend_from_slice(element.raw);
        self
    }

    /// A value under a name. The name has no zero in it.
    pub fn value(&mut self, name: &[u8], value: Value<'_>) -> &mut Self {
        self.name(value.kind, name);
        self.bytes.extend_from_slice(value.bytes);
        self
    }

    /// Null.
    pub fn null(&mut self, name: &[u8]) -> &mut Self {
        self.name(kind::NULL, name);
        self
    }

    /// Text. A name or a text of a server's fits into 2 GiB.
    pub fn text(&mut self, name: &str, text: &str) -> &mut Self {
        self.name(kind::STRING, name.as_bytes());
        let length = i32::try_from(text.len() + 1).unwrap_or(i32::MAX);
        self.bytes.extend_from_slice(&length.to_le_bytes());
        self.bytes.extend_from_slice(text.as_bytes());
        self.bytes.push(0);
        self
    }

    /// True or false.
    pub fn bool(&mut self, name: &str, value: bool) -> &mut Self {
        self.name(kind::BOOL, name.as_bytes());
        self.bytes.push(u8::from(value));
        self
    }

    /// A 32-bit integer.
    pub fn int32(&mut self, name: &str, value: i32) -> &mut Self {
        self.name(kind::INT32, name.as_bytes());
        self.bytes.extend_from_slice(&value.to_le_bytes());
        self
    }

    /// A UUID.
    pub fn uuid(&mut self, name: &str, uuid: &[u8; 16]) -> &mut Self {
        self.name(kind::BINARY, name.as_bytes());
        self.bytes.extend_from_slice(&[16, 0, 0, 0, 4]);
        self.bytes.extend_from_slice(uuid);
        self
    }

    /// A document.
    pub fn document(&mut self, name: &str, document: Document<'_>) -> &mut Self {
        self.value(
            name.as_bytes(),
            Value {
                kind: kind::DOCUMENT,
                bytes: document.bytes(),
            },
        )
    }

    /// Opens a document, or an array, inside.
    pub fn open(&mut self, name: &[u8], kind: u8) -> &mut Self {
        self.name(kind, name);
        self.begin();
        self
    }

    /// Closes what was opened last.
    pub fn close(&mut self) -> &mut Self {
        self.end();
        self
    }

    fn name(&mut self, kind: u8, name: &[u8]) {
        self.bytes.push(kind);
        self.bytes.extend_from_slice(name);
        self.bytes.push(0);
    }

    /// Closes the document itself.
    #[must_use]
    pub fn finish(mut self) -> Vec<u8> {
        self.end();
        debug_assert!(self.open.is_empty(), "what is opened is closed");
        self.bytes
    }
}

#[cfg(test)]
mod tests {
    use bson::{doc, spec::BinarySubtype};
    use proptest::prelude::*;

    use super::*;

    fn cstring(text: &str) -> bson::raw::CString {
        text.to_owned().try_into().unwrap()
    }

    fn every_type() -> Vec<u8> {
        let document = doc! {
            "double": 1.5, "text": "täxt", "document": { "a": { "b": 1 } }, "array": [1, "b", [2]],
            "binary": bson::Binary { subtype: BinarySubtype::Generic, bytes: vec![1, 2, 3] },
            "undefined": bson::Bson::Undefined, "id": bson::oid::ObjectId::from_bytes([7; 12]), "bool": true,
            "date": bson::DateTime::from_millis(5), "null": null,
            "regex": bson::Regex { pattern: cstring("a.*"), options: cstring("i") },
            "code": bson::Bson::JavaScriptCode("f()".into()),
            "scope": bson::JavaScriptCodeWithScope { code: "f".into(), scope: doc! { "x": 1 } },
            "symbol": bson::Bson::Symbol("s".into()), "int": 3_i32, "long": 4_i64,
            "time": bson::Timestamp { time: 2, increment: 3 }, "decimal": "1.5".parse::<bson::Decimal128>().unwrap(),
            "min": bson::Bson::MinKey, "max": bson::Bson::MaxKey,
        };
        document.to_vec().unwrap()
    }

    #[test]
    fn every_type_is_found_and_copied_byte_for_byte() {
        let bytes = every_type();
        let document = Document::new(&bytes).unwrap();
        let mut copy = Builder::new();
        for element in document.elements() {
            copy.element(element.unwrap());
        }
        assert_eq!(copy.finish(), bytes);
        assert_eq!(document.elements().count(), 20);
        let get = |name| document.get(name).unwrap().unwrap();
        assert_eq!(get("text").text(), Some("täxt"));
        assert_eq!(get("time").timestamp(), Some((2 << 32) | 3));
        assert_eq!(get("long").integer(), Some(4));
        assert_eq!(get("date").date(), Some(5));
    }

    #[test]
    fn a_document_cut_anywhere_is_refused() {
        let bytes = every_type();
        for cut in 0..bytes.len() {
            assert!(Document::new(&bytes[..cut]).is_err(), "{cut}");
            let mut shorter = bytes[..cut].to_vec();
            if let (4.., Ok(length)) = (cut, i32::try_from(cut + 1))
                && cut + 1 < bytes.len()
            {
                shorter.push(0);
                shorter[..4].copy_from_slice(&length.to_le_bytes());
                if let Ok(document) = Document::new(&shorter) {
                    let whole = document.elements().all(|element| element.is_ok());
                    let found = document.elements().count();
                    assert!(!whole || found < 20, "{cut}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_bytes_are_elements_that_lie_inside_or_an_error(bytes: Vec<u8>) {
            let mut framed = vec![0; 4];
            framed.extend_from_slice(&bytes);
            framed.push(0);
            let length = i32::try_from(framed.len()).unwrap();
            framed[..4].copy_from_slice(&length.to_le_bytes());
            let document = Document::new(&framed).unwrap();
            let elements: Vec<_> = document.elements().collect();
            let sum: usize = elements.iter().flatten().map(|element| element.raw.len()).sum();
            prop_assert!(sum <= bytes.len());
            prop_assert!(elements.iter().any(Result::is_err) || sum == bytes.len());
        }

        #[test]
        fn a_float_is_whole_only_where_the_integer_equals_it(number: f64) {
            if let Some(integer) = whole(number) {
                prop_assert_eq!(integer as f64, number);
            }
        }
    }
}
