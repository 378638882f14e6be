//! Writing BSON, the other direction of `raw`: what a fold makes anew, element by element, with what is kept copied as it is.

use super::raw::{Document, Element, Value, kind};

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
