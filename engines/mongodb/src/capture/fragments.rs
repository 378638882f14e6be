//! Events that a server cut into pieces because they are larger than its replies may be (`$changeStreamSplitLargeEvent`): put together
//! again, before anybody looks at them.

use std::borrow::Cow;

use bson::raw::{RawDocument, RawDocumentBuf};

use crate::EngineError;
use crate::fold::raw::{Builder, Document};

/// Larger than the largest event: a document, the one before it, and an update, each of 16 MiB.
const EVENT_BYTES_MAX: usize = 56 << 20;

/// Puts fragments together.
#[derive(Default)]
pub(super) struct Fragments {
    parts: Vec<RawDocumentBuf>,
    bytes: usize,
}

impl Fragments {
    /// No event is incomplete.
    pub(super) fn is_empty(&self) -> bool {
        self.parts.is_empty()
    }

    /// Takes what the server sent; gives back an event that is whole.
    pub(super) fn take<'a>(
        &mut self,
        event: &'a RawDocument,
    ) -> Result<Option<Cow<'a, RawDocument>>, EngineError> {
        let Ok(split) = event.get_document("splitEvent") else {
            if self.is_empty() {
                return Ok(Some(Cow::Borrowed(event)));
            }
            return Err(broken("an event stands among the fragments of another one"));
        };
        let number = |name| {
            split
                .get_i32(name)
                .ok()
                .and_then(|n| usize::try_from(n).ok())
        };
        let (Some(fragment), Some(of)) = (number("fragment"), number("of")) else {
            return Err(broken("a fragment without its number"));
        };
        if fragment != self.parts.len() + 1 || fragment > of {
            return Err(broken("fragments of an event out of order"));
        }
        self.bytes += event.as_bytes().len();
        if self.bytes > EVENT_BYTES_MAX {
            return Err(broken("an event larger than documents can make it"));
        }
        self.parts.push(event.to_owned());
        if fragment < of {
            return Ok(None);
        }
        self.bytes = 0;
        join(&std::mem::take(&mut self.parts)).map(|event| Some(Cow::Owned(event)))
    }
}

/// One event of all fields; its token is the last fragment's, behind which a stream goes on.
fn join(parts: &[RawDocumentBuf]) -> Result<RawDocumentBuf, EngineError> {
    let wrong = |_| broken("a fragment that is not BSON");
    let mut event = Builder::with_capacity(parts.iter().map(|part| part.as_bytes().len()).sum());
    let last = parts.last().ok_or(broken("an event without fragments"))?;
    let token = Document::new(last.as_bytes()).and_then(|last| last.get("_id"));
    if let Some(token) = token.map_err(wrong)? {
        event.value(b"_id", token);
    }
    for part in parts {
        let part = Document::new(part.as_bytes()).map_err(wrong)?;
        for element in part.elements() {
            let element = element.map_err(wrong)?;
            if !matches!(element.name, b"_id" | b"splitEvent") {
                event.element(element);
            }
        }
    }
    RawDocumentBuf::from_bytes(event.finish()).map_err(|_| broken("fragments that make no event"))
}

fn broken(reason: &str) -> EngineError {
    EngineError::Jumped(reason.into())
}

#[cfg(test)]
mod tests {
    use bson::{doc, rawdoc};

    use super::*;

    fn part(fragment: i32, of: i32, more: bson::Document) -> RawDocumentBuf {
        let mut part = doc! {
            "_id": { "_data": format!("82{fragment}") }, "splitEvent": { "fragment": fragment, "of": of },
        };
        part.extend(more);
        RawDocumentBuf::try_from(&part).unwrap()
    }

    #[test]
    fn an_event_in_fragments_becomes_one_with_the_last_token() {
        let mut fragments = Fragments::default();
        let parts = [
            part(1, 3, doc! { "operationType": "replace" }),
            part(2, 3, doc! { "fullDocument": { "_id": 1 } }),
            part(
                3,
                3,
                doc! { "fullDocumentBeforeChange": { "_id": 1, "v": 1 } },
            ),
        ];
        assert!(fragments.take(&parts[0]).unwrap().is_none());
        assert!(fragments.take(&parts[1]).unwrap().is_none());
        let event = fragments.take(&parts[2]).unwrap().unwrap();
        let expected = rawdoc! {
            "_id": { "_data": "823" }, "operationType": "replace", "fullDocument": { "_id": 1 },
            "fullDocumentBeforeChange": { "_id": 1, "v": 1 },
        };
        assert_eq!(event.as_bytes(), expected.as_bytes());
        assert!(fragments.is_empty());
    }

    #[test]
    fn fragments_that_do_not_follow_each_other_are_refused() {
        let whole = rawdoc! { "_id": 1 };
        for wrong in [
            part(2, 2, doc! {}),
            part(2, 1, doc! {}),
            part(0, 2, doc! {}),
        ] {
            assert!(Fragments::default().take(&wrong).is_err());
        }
        let mut fragments = Fragments::default();
        fragments.take(&part(1, 3, doc! {})).unwrap();
        assert!(fragments.take(&whole).is_err());
        assert!(fragments.take(&part(3, 3, doc! {})).is_err());
    }
}
