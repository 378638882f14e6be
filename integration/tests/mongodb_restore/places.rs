//! Documents with a place, and whether indexes of places find them: what is compared of an index elsewhere is only its definition.

use bson::{Document, doc};
use pitr_integration::Mongo;

/// A document with something in each index of places.
pub(crate) fn place(number: i32) -> Document {
    let (east, name) = (13.0 + f64::from(number), format!("place {number}"));
    let point = doc! { "type": "Point", "coordinates": [east, 52.0] };
    doc! { "_id": 5000 + number, "n": 5000, "q": name, "place": point, "flat": [number, number] }
}

/// The indexes of places answer as they did at the source: ten places, the first of which was moved.
pub(crate) fn assert_places(mongo: &Mongo) {
    let near = doc! { "$geoWithin": { "$centerSphere": [[13.0, 52.0], 0.05] } };
    let flat = doc! { "$geoWithin": { "$box": [[1, 1], [3, 7]] } };
    for (query, index, expected) in [
        (
            doc! { "place": near },
            "place",
            vec![5001, 5002, 5003, 5004],
        ),
        (doc! { "flat": flat }, "flat", vec![5001, 5002, 5003]),
    ] {
        let find = doc! { "find": "busy", "filter": query, "hint": index, "sort": { "_id": 1 } };
        let found = mongo.run("shop", find);
        let cursor = found.get_document("cursor").expect("a cursor");
        let batch = cursor.get_array("firstBatch").expect("a batch");
        let ids = batch.iter().map(|found| {
            let found = found.as_document().expect("a document");
            found.get_i32("_id").expect("a number")
        });
        assert_eq!(ids.collect::<Vec<_>>(), expected, "{index}");
    }
}
