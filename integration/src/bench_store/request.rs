//! A request of S3, as the store of the benchmarks reads it.

use std::collections::BTreeMap;
use std::ops::Range;

use crate::http_message::Message;

/// A request, its target taken apart.
pub(super) struct Request {
    pub(super) method: String,
    /// Bucket and key.
    pub(super) path: String,
    query: BTreeMap<String, String>,
    pub(super) message: Message,
}

impl Request {
    pub(super) fn of(message: Message) -> Self {
        let mut words = message.first_line.split(' ');
        let method = words.next().unwrap_or_default().to_owned();
        let target = words.next().unwrap_or_default();
        let (path, query) = target.split_once('?').unwrap_or((target, ""));
        let pairs = query
            .split('&')
            .map(|pair| pair.split_once('=').unwrap_or((pair, "")));
        Self {
            method,
            path: decoded(path.trim_start_matches('/')),
            query: pairs
                .map(|(name, value)| (name.into(), decoded(value)))
                .collect(),
            message,
        }
    }

    pub(super) fn header(&self, name: &str) -> Option<&str> {
        self.message.headers.get(name).map(String::as_str)
    }

    pub(super) fn asked(&self, name: &str) -> &str {
        self.query.get(name).map_or("", String::as_str)
    }

    pub(super) fn lists(&self) -> bool {
        self.query.contains_key("list-type")
    }
}

/// Undoes the escapes of a URL.
fn decoded(text: &str) -> String {
    let (mut out, mut rest) = (Vec::new(), text.as_bytes());
    while let Some((&byte, tail)) = rest.split_first() {
        let digits = tail
            .get(..2)
            .and_then(|digits| std::str::from_utf8(digits).ok());
        match digits.and_then(|digits| u8::from_str_radix(digits, 16).ok()) {
            Some(escaped) if byte == b'%' => {
                out.push(escaped);
                rest = &tail[2..];
            }
            _ => {
                out.push(byte);
                rest = tail;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// The bytes that a `Range` names in a body of so many; empty if there are none.
pub(super) fn wanted(text: &str, length: usize) -> Option<Range<usize>> {
    let (first, last) = text.strip_prefix("bytes=")?.split_once('-')?;
    let end = last
        .parse()
        .map_or(length, |last: usize| length.min(last.saturating_add(1)));
    Some(first.parse().ok()?..end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_range_ends_where_the_body_ends() {
        for (text, range) in [
            ("bytes=0-2", Some(0..3)),
            ("bytes=8-19", Some(8..10)),
            ("bytes=9-", Some(9..10)),
            ("0-2", None),
        ] {
            assert_eq!(wanted(text, 10), range, "{text}");
        }
        assert!(wanted("bytes=30-39", 10).is_some_and(|range| range.is_empty()));
    }

    #[test]
    fn escapes_of_a_url_are_undone() {
        assert_eq!(decoded("log%2Fa%7E%"), "log/a~%");
    }
}
