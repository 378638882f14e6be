//! Small documents that are edited: options of collections, specs of indexes. The order of their fields does not matter to a
//! server; what is not touched stays as it is.

use crate::fold::raw::{Builder, Document, Element, Malformed, Value};

/// A field of `document`; `None` also where the document is malformed.
#[must_use]
pub fn get<'a>(document: &'a [u8], name: &str) -> Option<Value<'a>> {
    Document::new(document).ok()?.get(name).ok()?
}

/// Removes a field.
pub fn remove(document: &mut Vec<u8>, name: &str) {
    edit(document, name, |_| {});
}

/// Sets a field, where it stands or at the end.
pub fn set(document: &mut Vec<u8>, name: &str, value: Value<'_>) {
    edit(document, name, |out| {
        out.value(name.as_bytes(), value);
    });
}

/// Replaces a field by what `write` writes.
pub fn edit(document: &mut Vec<u8>, name: &str, write: impl FnOnce(&mut Builder)) {
    let mut write = Some(write);
    let Ok(before) = Document::new(document) else {
        return;
    };
    let Ok(elements) = before
        .elements()
        .collect::<Result<Vec<Element<'_>>, Malformed>>()
    else {
        return;
    };
    let mut out = Builder::with_capacity(document.len() + 32);
    for element in elements {
        if element.name != name.as_bytes() {
            out.element(element);
        } else if let Some(write) = write.take() {
            write(&mut out);
        }
    }
    if let Some(write) = write {
        write(&mut out);
    }
    *document = out.finish();
}
