//! What a server says of a document that it refuses is not passed on: it quotes it.

use std::path::Path;

use bson::doc;
use pitr_integration::{Daemon, Mongo, Site};

/// As text, and as the bytes of a reply are shown.
const CANARY: [&str; 2] = ["canary", "63616e617279"];

#[test]
fn a_document_that_the_target_refuses_is_not_quoted() {
    let site = Site::new("mcanary");
    let source = Mongo::single(&site, "source");
    let person =
        |id: i32| doc! { "insert": "people", "documents": [{ "_id": id, "email": CANARY[0] }] };
    source.run("shop", person(1));
    let daemon = Daemon::follow(&source, "pitrd");
    daemon.tool().backup(&[]);
    let at = format!("ts:{}", source.mark());
    daemon.wait_covered(&source);
    // Somebody else has the address now, and no two may.
    source.run(
        "shop",
        doc! { "delete": "people", "deletes": [{ "q": { "_id": 1 }, "limit": 1 }] },
    );
    source.run("shop", person(2));
    let unique = doc! { "key": { "email": 1 }, "name": "email", "unique": true };
    source.run(
        "shop",
        doc! { "createIndexes": "people", "indexes": [unique] },
    );
    let uri = source.uri();
    let one = [at.as_str(), "--only", "shop.people", "--id", "1"];
    let refused = daemon.tool().restore(&one, Path::new(&uri));
    assert_ne!(refused.code, 0, "{}", refused.said());
    let said = refused.said();
    assert!(
        said.contains("put a document into shop.people") && said.contains("code 11000"),
        "{said}"
    );
    for canary in CANARY {
        assert!(!said.contains(canary), "{said}");
        assert!(!daemon.log().contains(canary), "{}", daemon.log());
    }
}
