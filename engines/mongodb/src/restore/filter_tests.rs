use bson::doc;

use super::*;

fn holds(filter: &str, document: &Plain) -> bool {
    let bytes = document.to_vec().unwrap();
    Filter::parse(filter)
        .unwrap()
        .holds(Document::new(&bytes).unwrap())
}

#[test]
fn fields_compare_as_the_server_compares_them() {
    let document = doc! {
        "tenant": 7, "name": "Müller", "price": 9.5, "long": i64::MAX, "tags": ["a", { "k": 1 }, 5], "n": null,
        "deep": { "er": [{ "x": 1 }, { "x": 2 }] }, "at": bson::DateTime::from_millis(5),
    };
    for filter in [
        r#"{}"#,
        r#"{"tenant": 7}"#,
        r#"{"tenant": 7.0, "name": "Müller"}"#,
        r#"{"tenant": {"$numberLong": "7"}}"#,
        r#"{"tenant": {"$gte": 7, "$lt": 7.5}}"#,
        r#"{"price": {"$gt": 9, "$lte": 9.5}}"#,
        r#"{"long": {"$lt": 1e19}}"#,
        r#"{"tags": "a"}"#,
        r#"{"tags": {"k": 1}}"#,
        r#"{"tags.k": 1}"#,
        r#"{"tags.2": 5}"#,
        r#"{"tags": {"$gt": 4}}"#,
        r#"{"n": null, "absent": null, "deep.absent": null}"#,
        r#"{"deep.er.x": 2, "deep.er.1.x": 2}"#,
        r#"{"absent": {"$exists": false}, "n": {"$exists": true}}"#,
        r#"{"tenant": {"$in": [1, 7]}, "name": {"$nin": ["a"]}}"#,
        r#"{"$or": [{"tenant": 8}, {"price": 9.5}], "$nor": [{"tenant": 8}]}"#,
        r#"{"tenant": {"$not": {"$gt": 8}}, "absent": {"$ne": 3}}"#,
        r#"{"at": {"$gte": {"$date": "1970-01-01T00:00:00Z"}}}"#,
    ] {
        assert!(holds(filter, &document), "{filter}");
    }
    for filter in [
        r#"{"tenant": "7"}"#,
        r#"{"tenant": {"$gt": "1"}}"#,
        r#"{"name": "müller"}"#,
        r#"{"tags": ["a"]}"#,
        r#"{"absent": {"$lt": 5}}"#,
        r#"{"n": {"$exists": false}}"#,
        r#"{"tenant": null}"#,
        r#"{"deep.er.0.x": 2}"#,
        r#"{"$and": [{"tenant": 7}, {"price": 1}]}"#,
        r#"{"tags": {"$ne": "a"}}"#,
        r#"{"long": {"$gt": 1e19}}"#,
    ] {
        assert!(!holds(filter, &document), "{filter}");
    }
}

#[test]
fn what_is_not_understood_is_named() {
    for (filter, word) in [
        (r#"{"$where": "1"}"#, "$where"),
        (r#"{"a": {"$regex": "x"}}"#, "$regex"),
        (r#"{"a": {"$gt": 1, "$elemMatch": {}}}"#, "$elemMatch"),
        (r#"{"a": {"$gt": [1]}}"#, "$gt"),
        (r#"{"a": {"$in": 1}}"#, "array"),
        (r#"{"a": {"$not": 1}}"#, "$not"),
        (r#"{"$or": []}"#, "at least one"),
        (r#"{"a": {"$exists": 1}}"#, "$exists"),
        (
            r#"{"a": {"$regularExpression": {"pattern": "x", "options": ""}}}"#,
            "regular",
        ),
        ("tenant=7", "extended JSON"),
    ] {
        let error = Filter::parse(filter).unwrap_err().to_string();
        assert!(error.contains(word), "{filter}: {error}");
    }
}
