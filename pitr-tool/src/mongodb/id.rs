//! `_id`s as people write them: extended JSON where it is that, an object id, or text.

use anyhow::Context;
use bson::oid::ObjectId;
use bson::{Bson, doc};
use pitrd::exit::{Exit, Refusal};

/// BSON with one field, the `_id` that `text` means: `7`, `{"$oid": "…"}`, 24 hexadecimal digits, or any other text itself.
pub(super) fn parse(text: &str) -> anyhow::Result<Vec<u8>> {
    let object_id = (text.len() == 24)
        .then(|| ObjectId::parse_str(text).ok())
        .flatten();
    let id = match (object_id, serde_json::from_str::<Bson>(text)) {
        (Some(id), _) => id.into(),
        (None, Ok(id)) => id,
        (None, Err(_)) if text.starts_with(['{', '[', '"']) => {
            let message = "the _id begins like JSON and is none";
            let hint = "for example 7, abc, or {\"$numberLong\": \"7\"} in single quotes";
            return Err(Refusal::new(Exit::Usage, message).hint(hint).into());
        }
        (None, Err(_)) => text.into(),
    };
    doc! { "_id": id }.to_vec().context("write the _id as BSON")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_id_is_json_an_object_id_or_text() {
        let of = |text: &str| {
            let bytes = parse(text).unwrap();
            bson::Document::from_reader(bytes.as_slice())
                .unwrap()
                .get("_id")
                .unwrap()
                .clone()
        };
        assert_eq!(of("7"), Bson::Int32(7));
        assert_eq!(of(r#"{"$numberLong": "7"}"#), Bson::Int64(7));
        assert_eq!(of(r#""7""#), Bson::String("7".into()));
        assert_eq!(of("order-7"), Bson::String("order-7".into()));
        assert_eq!(of(r#"{"a": 1}"#), Bson::Document(doc! { "a": 1 }));
        let id = "6b013aadd3d4f2d1650a9775";
        assert_eq!(of(id), ObjectId::parse_str(id).unwrap().into());
        assert!(parse("{a: 1}").is_err());
    }
}
