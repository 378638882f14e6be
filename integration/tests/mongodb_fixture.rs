//! The fixtures themselves: a replica set elects, survives the loss of a member, and keeps what a majority has.

use bson::doc;
use pitr_integration::{Mongo, Site};

#[test]
fn a_set_of_three_elects_another_primary_and_keeps_its_documents() {
    let site = Site::new("mset");
    let mut mongo = Mongo::three(&site, "rs0");
    let orders = mongo.collection("shop.orders");
    mongo
        .block_on(async { orders.insert_one(doc! { "_id": 1 }).await })
        .expect("insert");
    let first = mongo.wait_primary();
    let second = mongo.step_down();
    assert_ne!(first, second);
    mongo.kill(second);
    mongo.wait_primary();
    mongo.start(second);
    assert_eq!(mongo.find("shop.orders", doc! {}), [doc! { "_id": 1 }]);
}
