//! Time series between the two ways in which the catalogue shows them: the collection of buckets that the log knows, and the series
//! that users see and create.

use crate::fold::catalogue::options;
use crate::fold::raw::{Builder, Document, Element, Value, kind};

/// Options of the bucket collection that the server makes by itself.
const IMPLIED: [&str; 3] = ["validator", "validationLevel", "validationAction"];

/// What `create` takes for the series whose buckets have these options.
#[must_use]
pub(super) fn user_options(of_buckets: &[u8]) -> Vec<u8> {
    let mut user = of_buckets.to_vec();
    for implied in IMPLIED {
        options::remove(&mut user, implied);
    }
    options::remove(&mut user, "clusteredIndex");
    let Some(series) = options::get(of_buckets, "timeseries").and_then(Value::document) else {
        return user;
    };
    let mut series = series.bytes().to_vec();
    // The granularity implies both, and servers refuse them beside it.
    if options::get(&series, "granularity").is_some() {
        options::remove(&mut series, "bucketMaxSpanSeconds");
        options::remove(&mut series, "bucketRoundingSeconds");
    }
    let value = Value {
        kind: kind::DOCUMENT,
        bytes: &series,
    };
    options::set(&mut user, "timeseries", value);
    user
}

/// An index on buckets as users see it; `None` for one that is not seen.
#[must_use]
pub(super) fn user_index(index: &[u8], of_buckets: &[u8]) -> Option<Vec<u8>> {
    let series = options::get(of_buckets, "timeseries").and_then(Value::document)?;
    let meta = series.get("metaField").ok().flatten().and_then(Value::text);
    let key = options::get(index, "key").and_then(Value::document)?;
    let mut user = Builder::new();
    let mut before: Option<Element<'_>> = None;
    for field in key.elements() {
        let field = field.ok()?;
        let name = std::str::from_utf8(field.name).ok()?;
        if let Some(rest) = name.strip_prefix("meta") {
            if !(rest.is_empty() || rest.starts_with('.')) {
                return None;
            }
            user.value(format!("{}{rest}", meta?).as_bytes(), field.value);
        } else if let Some(name) = name.strip_prefix("data.") {
            if field.value.text() != Some("2dsphere_bucket") {
                return None;
            }
            user.text(name, "2dsphere");
        } else {
            // A measured field is a pair of bounds, in the order of the direction.
            let bound = name
                .strip_prefix("control.min.")
                .or(name.strip_prefix("control.max."))?;
            match before.take() {
                Some(first)
                    if first.name.ends_with(bound.as_bytes()) && first.name != field.name =>
                {
                    user.value(bound.as_bytes(), field.value);
                }
                Some(_) => return None,
                None => before = Some(field),
            }
        }
    }
    if before.is_some() {
        return None;
    }
    let key = user.finish();
    let mut user = index.to_vec();
    let key = Value {
        kind: kind::DOCUMENT,
        bytes: &key,
    };
    options::set(&mut user, "key", key);
    options::remove(&mut user, "originalSpec");
    Document::new(&user).ok()?;
    Some(user)
}

#[cfg(test)]
mod tests {
    use bson::{Document as Plain, doc};

    use super::*;

    fn buckets() -> Vec<u8> {
        let options = doc! {
            "validator": { "$jsonSchema": {} }, "clusteredIndex": true, "expireAfterSeconds": 60_i64,
            "timeseries": { "timeField": "t", "metaField": "m", "granularity": "hours", "bucketMaxSpanSeconds": 2_592_000 },
        };
        options.to_vec().unwrap()
    }

    #[test]
    fn a_series_is_created_from_what_its_buckets_do_not_imply() {
        let user = Plain::from_reader(user_options(&buckets()).as_slice()).unwrap();
        let series = doc! { "timeField": "t", "metaField": "m", "granularity": "hours" };
        assert_eq!(
            user,
            doc! { "expireAfterSeconds": 60_i64, "timeseries": series }
        );
    }

    #[test]
    fn indexes_on_buckets_are_seen_as_the_user_made_them() {
        let user = |key: Plain| {
            let index = doc! { "v": 2, "key": key, "name": "i" }.to_vec().unwrap();
            let user = user_index(&index, &buckets())?;
            let user = Plain::from_reader(user.as_slice()).unwrap();
            Some(user.get_document("key").unwrap().clone())
        };
        let pair = doc! { "meta.a": 1, "control.max.t": -1, "control.min.t": -1 };
        assert_eq!(user(pair), Some(doc! { "m.a": 1, "t": -1 }));
        let two = doc! { "control.min.v": 1, "control.max.v": 1, "meta": 1 };
        assert_eq!(user(two), Some(doc! { "v": 1, "m": 1 }));
        assert_eq!(
            user(doc! { "data.loc": "2dsphere_bucket" }),
            Some(doc! { "loc": "2dsphere" })
        );
        for odd in [
            doc! { "_id": 1 },
            doc! { "control.min.v": 1 },
            doc! { "metadata": 1 },
            doc! { "control.min.a": 1, "control.max.b": 1 },
        ] {
            assert_eq!(user(odd.clone()), None, "{odd}");
        }
    }
}
