//! MongoDB's extended JSON, version 2, from raw BSON: field order and types survive. The canonical form is what mongorestore reads, the
//! relaxed one what people read.

use std::fmt::Write;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::fold::raw::{Document, Malformed, Value, kind};

/// How numbers and dates are written.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Form {
    /// With their types.
    Canonical,
    /// As JSON has them, where nothing but the width of an integer is lost.
    Relaxed,
}

/// A document as text on one line.
pub fn document(document: Document<'_>, form: Form) -> Result<String, Malformed> {
    let mut out = String::new();
    write_document(document, form, &mut out)?;
    Ok(out)
}

/// A value as text on one line.
pub fn value(value: Value<'_>, form: Form) -> Result<String, Malformed> {
    let mut out = String::new();
    write_value(value, form, &mut out)?;
    Ok(out)
}

/// Text with quotes.
pub fn quoted(text: &str) -> String {
    serde_json::Value::from(text).to_string()
}

fn lossy(bytes: &[u8]) -> String {
    quoted(&String::from_utf8_lossy(bytes))
}

fn write_document(document: Document<'_>, form: Form, out: &mut String) -> Result<(), Malformed> {
    out.push('{');
    for (number, element) in document.elements().enumerate() {
        let element = element?;
        out.push_str(if number == 0 { "" } else { "," });
        out.push_str(&lossy(element.name));
        out.push(':');
        write_value(element.value, form, out)?;
    }
    out.push('}');
    Ok(())
}

fn write_array(array: Document<'_>, form: Form, out: &mut String) -> Result<(), Malformed> {
    out.push('[');
    for (number, element) in array.elements().enumerate() {
        out.push_str(if number == 0 { "" } else { "," });
        write_value(element?.value, form, out)?;
    }
    out.push(']');
    Ok(())
}

fn write_value(value: Value<'_>, form: Form, out: &mut String) -> Result<(), Malformed> {
    let bytes = value.bytes;
    let text = |bytes: &[u8]| lossy(&bytes[4..bytes.len() - 1]);
    let simple = match value.kind {
        kind::DOCUMENT => return write_document(Document::new(bytes)?, form, out),
        kind::ARRAY => return write_array(Document::new(bytes)?, form, out),
        kind::STRING => text(bytes),
        kind::BOOL => (bytes == [1]).to_string(),
        kind::NULL => "null".into(),
        kind::INT32 | kind::INT64 => integer(value, form)?,
        kind::DOUBLE => double(value.double().ok_or(Malformed)?, form),
        kind::DATE => date(value.date().ok_or(Malformed)?, form),
        kind::DECIMAL => {
            let decimal = bson::Decimal128::from_bytes(bytes.try_into().map_err(|_| Malformed)?);
            format!(r#"{{"$numberDecimal":"{decimal}"}}"#)
        }
        kind::OBJECT_ID => format!(r#"{{"$oid":"{}"}}"#, hexadecimal(bytes)),
        kind::BINARY => {
            let (subtype, data) = (bytes[4], &bytes[5..]);
            // The old subtype repeats its length inside.
            let data = if subtype == 2 {
                data.get(4..).ok_or(Malformed)?
            } else {
                data
            };
            let data = STANDARD.encode(data);
            format!(r#"{{"$binary":{{"base64":"{data}","subType":"{subtype:02x}"}}}}"#)
        }
        kind::TIMESTAMP => {
            let time = value.timestamp().ok_or(Malformed)?;
            let (seconds, increment) = (time >> 32, time & 0xffff_ffff);
            format!(r#"{{"$timestamp":{{"t":{seconds},"i":{increment}}}}}"#)
        }
        kind::REGEX => {
            let mut halves = bytes.split(|byte| *byte == 0).map(lossy);
            let (pattern, options) = (
                halves.next().ok_or(Malformed)?,
                halves.next().ok_or(Malformed)?,
            );
            format!(r#"{{"$regularExpression":{{"pattern":{pattern},"options":{options}}}}}"#)
        }
        0x06 => r#"{"$undefined":true}"#.into(),
        0x0c => {
            let (name, id) = bytes.split_at(bytes.len() - 12);
            let (name, id) = (text(name), hexadecimal(id));
            format!(r#"{{"$dbPointer":{{"$ref":{name},"$id":{{"$oid":"{id}"}}}}}}"#)
        }
        0x0d => format!(r#"{{"$code":{}}}"#, text(bytes)),
        0x0e => format!(r#"{{"$symbol":{}}}"#, text(bytes)),
        0x0f => return write_scoped(bytes, form, out),
        0x7f => r#"{"$maxKey":1}"#.into(),
        0xff => r#"{"$minKey":1}"#.into(),
        _ => return Err(Malformed),
    };
    out.push_str(&simple);
    Ok(())
}

fn write_scoped(bytes: &[u8], form: Form, out: &mut String) -> Result<(), Malformed> {
    let code_bytes = bytes
        .get(4..8)
        .and_then(|length| length.try_into().ok())
        .map(i32::from_le_bytes);
    let code_bytes = code_bytes
        .and_then(|length| usize::try_from(length).ok())
        .ok_or(Malformed)?;
    let (code, scope) = bytes[8..].split_at_checked(code_bytes).ok_or(Malformed)?;
    let code = lossy(code.strip_suffix(&[0]).ok_or(Malformed)?);
    out.push_str(&format!(r#"{{"$code":{code},"$scope":"#));
    write_document(Document::new(scope)?, form, out)?;
    out.push('}');
    Ok(())
}

fn integer(value: Value<'_>, form: Form) -> Result<String, Malformed> {
    let integer = value.integer().ok_or(Malformed)?;
    Ok(match (form, value.kind) {
        (Form::Relaxed, _) => integer.to_string(),
        (Form::Canonical, kind::INT32) => format!(r#"{{"$numberInt":"{integer}"}}"#),
        (Form::Canonical, _) => format!(r#"{{"$numberLong":"{integer}"}}"#),
    })
}

fn double(number: f64, form: Form) -> String {
    let text = if number.is_nan() {
        "NaN".into()
    } else if number.is_infinite() {
        if number > 0.0 {
            "Infinity"
        } else {
            "-Infinity"
        }
        .to_owned()
    } else {
        format!("{number:?}")
    };
    if form == Form::Relaxed && number.is_finite() {
        text
    } else {
        format!(r#"{{"$numberDouble":"{text}"}}"#)
    }
}

fn date(millis: i64, form: Form) -> String {
    let relaxed = jiff::Timestamp::from_millisecond(millis)
        .ok()
        .filter(|_| form == Form::Relaxed && millis >= 0);
    match relaxed {
        Some(time) => format!(r#"{{"$date":"{time}"}}"#),
        None => format!(r#"{{"$date":{{"$numberLong":"{millis}"}}}}"#),
    }
}

fn hexadecimal(bytes: &[u8]) -> String {
    bytes.iter().fold(String::new(), |mut text, byte| {
        let _ = write!(text, "{byte:02x}");
        text
    })
}

#[cfg(test)]
mod tests {
    use bson::{Bson, doc};

    use super::*;

    fn every_type() -> bson::Document {
        doc! {
            "z": 1.5, "whole": 2.0, "nan": f64::NAN, "long": 1_i64 << 60, "int": -7, "a": { "b": ["x\"\n", null, true] },
            "date": bson::DateTime::from_millis(1_500), "old": bson::DateTime::from_millis(-1),
            "id": bson::oid::ObjectId::from_bytes([10; 12]), "time": bson::Timestamp { time: 4_000_000_000, increment: 3 },
            "binary": bson::Binary { subtype: bson::spec::BinarySubtype::Generic, bytes: vec![0, 255] },
            "decimal": "1.50".parse::<bson::Decimal128>().unwrap(), "min": Bson::MinKey, "max": Bson::MaxKey,
            "code": Bson::JavaScriptCode("f()".into()), "symbol": Bson::Symbol("s".into()), "undefined": Bson::Undefined,
            "scope": bson::JavaScriptCodeWithScope { code: "f".into(), scope: doc! { "x": 1 } },
        }
    }

    #[test]
    fn the_canonical_form_reads_back_as_the_same_document() {
        let document = every_type();
        let bytes = document.to_vec().unwrap();
        let text = super::document(Document::new(&bytes).unwrap(), Form::Canonical).unwrap();
        let read: bson::Document = serde_json::from_str(&text).unwrap();
        assert_eq!(read.to_vec().unwrap(), bytes, "{text}");
    }

    #[test]
    fn the_relaxed_form_is_what_people_write() {
        let bytes = every_type().to_vec().unwrap();
        let text = super::document(Document::new(&bytes).unwrap(), Form::Relaxed).unwrap();
        let expected = r#"{"z":1.5,"whole":2.0,"nan":{"$numberDouble":"NaN"},"long":1152921504606846976,"int":-7,"a":{"b":["x\"\n",null,true]},"date":{"$date":"1970-01-01T00:00:01.5Z"},"old":{"$date":{"$numberLong":"-1"}},"#;
        assert!(text.starts_with(expected), "{text}");
    }
}
