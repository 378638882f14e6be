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
