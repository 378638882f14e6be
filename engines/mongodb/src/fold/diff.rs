//! Updates as MongoDB logs them since 5.0: `{$v: 2, diff: …}` applied to a document's bytes. The result is what the server
//! writes, the order of fields included; where the document is already newer than the entry it may be
//! provisional, and the entries that follow repair it.

use super::raw::{Builder, DOCUMENT_BYTES_MAX, Document, Element, Malformed, Value, kind};

/// Deeper nesting than a server takes, by far, would only exhaust the stack.
const DEPTH_MAX: usize = 250;

/// Why an update cannot be applied.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub enum DiffError {
    /// Not BSON, or not of the shape of a diff.
    #[error("a malformed update")]
    Malformed,
    /// An update as servers before 5.0 log it.
    #[error("an update of the form that servers before 5.0 write")]
    Old,
    /// A kind of change that this version does not know.
    #[error("an update with a section of an unknown kind")]
    Unknown,
}

impl From<Malformed> for DiffError {
    fn from(_: Malformed) -> Self {
        Self::Malformed
    }
}

/// What the `o` of an update is.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Update<'a> {
    /// The whole new document.
    Replacement(Document<'a>),
    /// What changes.
    Diff(Document<'a>),
}

impl<'a> Update<'a> {
    /// Tells them apart as the server does: a document with an `_id` is a replacement, whatever its fields are called.
    pub fn new(o: Document<'a>) -> Result<Self, DiffError> {
        let (mut version, mut diff) = (None, None);
        let mut old = false;
        for (number, element) in o.elements().enumerate() {
            let element = element?;
            match element.name {
                b"_id" => return Ok(Self::Replacement(o)),
                b"$v" => version = Some(element.value.integer()),
                b"diff" => diff = Some(element.value),
                name => old |= number == 0 && name.first() == Some(&b'$'),
            }
        }
        match (version, diff) {
            (Some(Some(2)), Some(diff)) if diff.kind == kind::DOCUMENT => {
                Ok(Self::Diff(diff.document().ok_or(DiffError::Malformed)?))
            }
            (Some(Some(1)), _) => Err(DiffError::Old),
            (Some(Some(2)), _) => Err(DiffError::Malformed),
            (Some(_), _) => Err(DiffError::Unknown),
            (None, _) if old => Err(DiffError::Old),
            (None, _) => Ok(Self::Replacement(o)),
        }
    }
}

/// The document after `diff`.
pub fn apply(document: Document<'_>, diff: Document<'_>) -> Result<Vec<u8>, DiffError> {
    let mut out = Builder::with_capacity(document.bytes().len() + diff.bytes().len());
    apply_to_document(document, diff, &mut out, 0)?;
    let bytes = out.finish();
    if bytes.len() > DOCUMENT_BYTES_MAX {
        return Err(DiffError::Malformed);
    }
    Ok(bytes)
}

/// One level of a diff, sorted out.
#[derive(Default)]
struct Sections<'a> {
    deleted: Vec<&'a [u8]>,
    updated: Vec<Element<'a>>,
    inserted: Vec<Element<'a>>,
    nested: Vec<(&'a [u8], Document<'a>)>,
}

impl<'a> Sections<'a> {
    fn new(diff: Document<'a>) -> Result<Self, DiffError> {
        let mut sections = Self::default();
        for element in diff.elements() {
            let element = element?;
            let inner = (element.value.kind == kind::DOCUMENT)
                .then(|| element.value.document())
                .flatten();
            match (element.name, inner) {
                (b"d", Some(inner)) => {
                    for field in inner.elements() {
                        sections.deleted.push(field?.name);
                    }
                }
                (b"u", Some(inner)) => {
                    sections.updated = inner.elements().collect::<Result<_, _>>()?
                }
                (b"i", Some(inner)) => {
                    sections.inserted = inner.elements().collect::<Result<_, _>>()?
                }
                ([b's', field @ ..], Some(inner)) => sections.nested.push((field, inner)),
                ([b'd' | b'u' | b'i'] | [b's', ..], None) => return Err(DiffError::Malformed),
                _ => return Err(DiffError::Unknown),
            }
        }
        Ok(sections)
    }
}

fn named<'a>(elements: &[Element<'a>], name: &[u8]) -> Option<Element<'a>> {
    elements
        .iter()
        .find(|element| element.name == name)
        .copied()
}

fn apply_to_document(
    document: Document<'_>,
    diff: Document<'_>,
    out: &mut Builder,
    depth: usize,
) -> Result<(), DiffError> {
    let sections = Sections::new(diff)?;
    let mut present = vec![false; sections.updated.len()];
    for element in document.elements() {
        let element = element?;
        let name = element.name;
        if sections.deleted.contains(&name) || named(&sections.inserted, name).is_some() {
            // What is inserted comes at the end, where the source has it.
            continue;
        }
        if let Some(at) = sections.updated.iter().position(|new| new.name == name) {
            present[at] = true;
            out.element(sections.updated[at]);
        } else if let Some((_, inner)) = sections.nested.iter().find(|(field, _)| *field == name) {
            apply_nested(name, Some(element.value), *inner, out, depth)?;
        } else {
            out.element(element);
        }
    }
    for (element, present) in sections.updated.iter().zip(present) {
        if !present {
            out.element(*element);
        }
    }
    for element in &sections.inserted {
        out.element(*element);
    }
    Ok(())
}

/// Writes the field `name` as `diff` makes it; null where it is not of the type that the diff was made for.
fn apply_nested(
    name: &[u8],
    before: Option<Value<'_>>,
    diff: Document<'_>,
    out: &mut Builder,
    depth: usize,
) -> Result<(), DiffError> {
    if depth == DEPTH_MAX {
        return Err(DiffError::Malformed);
    }
    let expected = if is_of_array(diff)? {
        kind::ARRAY
    } else {
        kind::DOCUMENT
    };
    let Some(inner) = before
        .filter(|value| value.kind == expected)
        .and_then(Value::document)
    else {
        out.null(name);
        return Ok(());
    };
    out.open(name, expected);
    if expected == kind::ARRAY {
        apply_to_array(inner, diff, out, depth + 1)?;
    } else {
        apply_to_document(inner, diff, out, depth + 1)?;
    }
    out.close();
    Ok(())
}

/// A diff of an array begins with `a: true`.
fn is_of_array(diff: Document<'_>) -> Result<bool, DiffError> {
    let first = diff.elements().next().transpose()?;
    Ok(first.is_some_and(|first| first.name == b"a" && first.value.kind == kind::BOOL))
}

/// One change of an array.
enum Change<'a> {
    Value(Value<'a>),
    Nested(Document<'a>),
}

/// A diff of an array, sorted out: its new length, and changes by index, ascending.
type ArraySections<'a> = (Option<u32>, Vec<(u32, Change<'a>)>);

fn array_sections(diff: Document<'_>) -> Result<ArraySections<'_>, DiffError> {
    let (mut length, mut changes) = (None, Vec::<(u32, Change<'_>)>::new());
    for element in diff.elements().skip(1) {
        let element = element?;
        let change = match element.name {
            b"l" => {
                let new = element
                    .value
                    .integer()
                    .and_then(|new| u32::try_from(new).ok());
                length = Some(new.ok_or(DiffError::Malformed)?);
                continue;
            }
            [b'u', index @ ..] => (index, Change::Value(element.value)),
            [b's', index @ ..] => {
                let inner = element.value.document().ok_or(DiffError::Malformed)?;
                (index, Change::Nested(inner))
            }
            _ => return Err(DiffError::Unknown),
        };
        let index = std::str::from_utf8(change.0)
            .ok()
            .and_then(|index| index.parse().ok())
            .ok_or(DiffError::Malformed)?;
        if changes.last().is_some_and(|(last, _)| *last >= index) {
            return Err(DiffError::Malformed);
        }
        changes.push((index, change.1));
    }
    Ok((length, changes))
}

fn apply_to_array(
    array: Document<'_>,
    diff: Document<'_>,
    out: &mut Builder,
    depth: usize,
) -> Result<(), DiffError> {
    let (length, changes) = array_sections(diff)?;
    let mut changes = changes.into_iter().peekable();
    let mut before = array.elements();
    let mut index: u32 = 0;
    loop {
        let within = length.is_none_or(|length| index < length);
        let value = if within {
            before.next().transpose()?.map(|element| element.value)
        } else {
            None
        };
        let padded = length.is_some_and(|length| index < length) || changes.peek().is_some();
        if value.is_none() && !padded {
            return Ok(());
        }
        if out.written() > DOCUMENT_BYTES_MAX {
            return Err(DiffError::Malformed);
        }
        let name = index.to_string();
        let name = name.as_bytes();
        match (changes.next_if(|(at, _)| *at == index), value) {
            (Some((_, Change::Value(new))), _) => out.value(name, new),
            (Some((_, Change::Nested(inner))), value) => {
                apply_nested(name, value, inner, out, depth)?;
                &mut *out
            }
            (None, Some(value)) => out.value(name, value),
            (None, None) => out.null(name),
        };
        index += 1;
    }
}

#[cfg(test)]
#[path = "diff_tests.rs"]
mod tests;
