//! What a source does in these tests: every kind of operation that the log knows, and writers that never rest.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;

use bson::{Bson, DateTime, Document, Timestamp, doc};
use mongodb::Client;
use pitr_integration::Mongo;

use crate::places::place;

async fn run(client: &Client, db: &str, command: Document) {
    let shown = format!("{command}");
    let ran = client.database(db).run_command(command).await;
    ran.unwrap_or_else(|error| panic!("{shown:.300}: {error}"));
}

async fn insert(client: &Client, namespace: &str, documents: Vec<Document>) {
    let (db, name) = namespace.split_once('.').unwrap();
    client
        .database(db)
        .collection(name)
        .insert_many(documents)
        .await
        .unwrap();
}

async fn update(client: &Client, namespace: &str, q: Document, u: impl Into<Bson>) {
    let (db, name) = namespace.split_once('.').unwrap();
    run(
        client,
        db,
        doc! { "update": name, "updates": [{ "q": q, "u": u.into() }] },
    )
    .await;
}

fn numbered(count: i32) -> Vec<Document> {
    let document = |id| doc! { "_id": id, "n": id, "q": format!("text {id}"), "tenant": id % 10, "pad": "x".repeat(50) };
    (0..count).map(document).collect()
}

/// What is there before the base copy begins.
pub(crate) fn before(mongo: &Mongo) {
    let client = &mongo.client();
    mongo.block_on(async {
        for name in [
            "moving", "dropped", "again", "busy", "busy2", "far", "to_cap",
        ] {
            insert(client, &format!("shop.{name}"), numbered(300)).await;
        }
        insert(
            client,
            "shop.times",
            vec![doc! { "_id": 1, "t": 1, "deep": { "t": Timestamp { time: 0, increment: 0 } } }],
        )
        .await;
        run(
            client,
            "shop",
            doc! { "create": "ring", "capped": true, "size": 100_000, "max": 40 },
        )
        .await;
        run(
            client,
            "shop",
            doc! { "create": "small_ring", "capped": true, "size": 4096 },
        )
        .await;
        insert(client, "shop.ring", numbered(100)).await;
        insert(client, "shop.small_ring", numbered(100)).await;
        let series = doc! { "timeField": "t", "metaField": "m", "granularity": "minutes" };
        run(
            client,
            "shop",
            doc! { "create": "series", "timeseries": series },
        )
        .await;
        measure(client, 0..200).await;
        let key = doc! { "key": { "_id": 1 }, "unique": true, "name": "by id" };
        run(
            client,
            "shop",
            doc! { "create": "clustered", "clusteredIndex": key, "expireAfterSeconds": 86_400_000 },
        )
        .await;
        insert(
            client,
            "shop.clustered",
            vec![doc! { "_id": "b" }, doc! { "_id": "a" }],
        )
        .await;
        let collation = doc! { "locale": "de", "strength": 2 };
        run(
            client,
            "shop",
            doc! { "create": "collated", "collation": collation },
        )
        .await;
        insert(
            client,
            "shop.collated",
            vec![doc! { "_id": "ä", "w": "Ä" }, doc! { "_id": "b", "w": "b" }],
        )
        .await;
        insert(client, "shop.busy", (0..5).map(place).collect()).await;
        indexes(client).await;
        run(
            client,
            "shop",
            doc! { "createUser": "before", "pwd": "p", "roles": ["read"] },
        )
        .await;
    });
}

async fn indexes(client: &Client) {
    let key = |key: Document, name: &str, more: Document| {
        let mut index = doc! { "key": key, "name": name };
        index.extend(more);
        index
    };
    let specs = vec![
        key(
            doc! { "n": 1 },
            "partial",
            doc! { "partialFilterExpression": { "n": { "$gt": 5 } } },
        ),
        key(doc! { "q": 1 }, "unique", doc! { "unique": true }),
        key(
            doc! { "when": 1 },
            "ttl",
            doc! { "expireAfterSeconds": 86_400_000 },
        ),
        key(
            doc! { "q": "text", "pad": "text" },
            "text",
            doc! { "weights": { "q": 5 }, "default_language": "german" },
        ),
        key(doc! { "loc": "2dsphere" }, "geo", doc! {}),
        key(doc! { "place": "2dsphere" }, "place", doc! {}),
        key(doc! { "flat": "2d" }, "flat", doc! { "bits": 20 }),
        key(doc! { "tenant": "hashed" }, "hashed", doc! {}),
        key(doc! { "n": -1, "q": 1 }, "hidden", doc! { "hidden": true }),
        key(doc! { "any.$**": 1 }, "wild", doc! {}),
        key(
            doc! { "s": 1 },
            "sparse",
            doc! { "sparse": true, "collation": { "locale": "fr" } },
        ),
    ];
    run(
        client,
        "shop",
        doc! { "createIndexes": "busy", "indexes": specs },
    )
    .await;
    run(client, "shop", doc! { "createIndexes": "series", "indexes": [{ "key": { "m.a": 1, "t": -1 }, "name": "by_m" }] }).await;
    run(
        client,
        "shop",
        doc! { "createIndexes": "again", "indexes": [{ "key": { "n": 1 }, "name": "n" }] },
    )
    .await;
}

async fn measure(client: &Client, minutes: std::ops::Range<i64>) {
    let start = 1_790_000_000_000;
    let point = |minute: i64| doc! { "t": DateTime::from_millis(start + minute * 60_000), "m": { "a": minute % 3 }, "v": minute };
    insert(client, "shop.series", minutes.map(point).collect()).await;
}

/// Four writers that change types, arrays and existence of the same documents until they are told to stop.
pub(crate) struct Writers {
    stop: Arc<AtomicBool>,
    threads: Vec<std::thread::JoinHandle<u64>>,
}

impl Writers {
    pub(crate) fn start(mongo: &Mongo) -> Writers {
        let stop = Arc::new(AtomicBool::new(false));
        let threads = (0..4).map(|number| {
            let (uri, stop) = (mongo.uri(), Arc::clone(&stop));
            std::thread::spawn(move || {
                let runtime = tokio::runtime::Builder::new_current_thread()
                    .enable_all()
                    .build()
                    .unwrap();
                runtime.block_on(write(&uri, number, &stop))
            })
        });
        Writers {
            stop: Arc::clone(&stop),
            threads: threads.collect(),
        }
    }

    /// Stops them; how much they wrote.
    pub(crate) fn stop(self) -> u64 {
        self.stop.store(true, Ordering::SeqCst);
        self.threads
            .into_iter()
            .map(|thread| thread.join().unwrap())
            .sum()
    }
}

/// A generator whose sequence is the same in every run; what it meets is not.
fn next(state: &mut u64) -> i32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    (*state >> 33) as i32
}

async fn write(uri: &str, number: u64, stop: &AtomicBool) -> u64 {
    let client = Client::with_uri_str(uri).await.unwrap();
    let (mut state, mut count) = (number, 0);
    while !stop.load(Ordering::SeqCst) {
        let (id, pick, value) = (
            next(&mut state) % 300,
            next(&mut state) % 16,
            next(&mut state),
        );
        let name = if value % 2 == 0 { "busy2" } else { "far" };
        let set = |u: Document| doc! { "update": name, "updates": [{ "q": { "_id": id }, "u": u, "upsert": value % 5 == 0 }] };
        let command = match pick {
            0 => set(doc! { "$set": { "v": value } }),
            1 => set(doc! { "$set": { "v": { "a": value, "b": [1, 2, { "c": value }] } } }),
            2 => set(doc! { "$set": { "v.a": value, "v.n": "x" } }),
            3 => set(doc! { "$push": { "list": value } }),
            4 => set(doc! { "$pop": { "list": 1 } }),
            5 => set(doc! { "$set": { "list.1": { "z": value } } }),
            6 => set(doc! { "$set": { "list.1.z": value } }),
            7 => set(doc! { "$unset": { "v": 1 } }),
            8 => set(doc! { "$unset": { "list": 1, "q": 1 } }),
            9 => set(doc! { "replaced": value, "list": [value, [value]] }),
            10 | 11 => doc! { "delete": name, "deletes": [{ "q": { "_id": id }, "limit": 1 }] },
            12 | 13 => {
                doc! { "insert": name, "documents": [{ "_id": id, "new": value, "v": [1, 2, 3] }] }
            }
            14 => set(doc! { "$rename": { "v": "w" }, "$inc": { "count": 1 } }),
            _ => set(doc! { "$set": { "_id": f64::from(id), "typed": value } }),
        };
        // Some do not fit what they meet; that is the point.
        if client.database("shop").run_command(command).await.is_ok() {
            count += 1;
        }
        if count % 50 == 0 {
            transaction(&client, id, value).await;
        }
    }
    count
}

async fn transaction(client: &Client, id: i32, value: i32) {
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let busy = client.database("shop").collection::<Document>("busy");
    let one = busy
        .update_one(doc! { "_id": id }, doc! { "$set": { "t": value } })
        .session(&mut session)
        .await;
    let two = busy
        .update_one(doc! { "_id": (id + 1) % 300 }, doc! { "$inc": { "t": 1 } })
        .session(&mut session)
        .await;
    let ended = if one.is_ok() && two.is_ok() && value % 3 != 0 {
        session.commit_transaction().await
    } else {
        session.abort_transaction().await
    };
    // Two writers meet in it now and then.
    drop(ended);
}

/// DDL while the base copy is taken.
pub(crate) fn meanwhile(mongo: &Mongo) {
    let client = &mongo.client();
    mongo.block_on(async {
        insert(
            client,
            "shop.ring",
            (100..160).map(|id| doc! { "_id": id }).collect(),
        )
        .await;
        run(client, "shop", doc! { "create": "young" }).await;
        insert(client, "shop.young", numbered(30)).await;
        run(
            client,
            "admin",
            doc! { "renameCollection": "shop.moving", "to": "shop.moved" },
        )
        .await;
        insert(client, "shop.moved", vec![doc! { "_id": "after" }]).await;
        insert(client, "old.gone", numbered(5)).await;
        run(client, "old", doc! { "dropDatabase": 1 }).await;
        insert(client, "old.back", numbered(5)).await;
        measure(client, 200..260).await;
    });
}

/// Everything else, when the copy is done.
pub(crate) fn after(mongo: &Mongo) {
    let client = &mongo.client();
    mongo.block_on(async {
        definitions(client).await;
        documents(client).await;
        transactions(client).await;
        run(
            client,
            "shop",
            doc! { "createRole": "clerk", "privileges": [], "roles": ["read"] },
        )
        .await;
        run(
            client,
            "shop",
            doc! { "createUser": "after", "pwd": "p", "roles": ["clerk"] },
        )
        .await;
        run(
            client,
            "shop",
            doc! { "updateUser": "before", "roles": ["readWrite"] },
        )
        .await;
        files(client).await;
    });
}

async fn definitions(client: &Client) {
    run(
        client,
        "admin",
        doc! { "renameCollection": "shop.again", "to": "store.again" },
    )
    .await;
    insert(client, "shop.over", numbered(3)).await;
    run(
        client,
        "admin",
        doc! { "renameCollection": "shop.young", "to": "shop.over", "dropTarget": true },
    )
    .await;
    run(client, "shop", doc! { "drop": "dropped" }).await;
    insert(client, "shop.dropped", vec![doc! { "_id": "new" }]).await;
    run(
        client,
        "shop",
        doc! { "convertToCapped": "to_cap", "size": 8192 },
    )
    .await;
    insert(client, "shop.to_cap", vec![doc! { "_id": "last" }]).await;
    run(
        client,
        "shop",
        doc! { "collMod": "ring", "cappedSize": 50_000, "cappedMax": 30 },
    )
    .await;
    insert(
        client,
        "shop.ring",
        (160..220).map(|id| doc! { "_id": id }).collect(),
    )
    .await;
    run(
        client,
        "shop",
        doc! { "create": "view", "viewOn": "busy", "pipeline": [{ "$match": { "n": 1 } }] },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "create": "view2", "viewOn": "view", "pipeline": [] },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "collMod": "view", "viewOn": "far", "pipeline": [{ "$match": { "n": 2 } }] },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "create": "view3", "viewOn": "view", "pipeline": [] },
    )
    .await;
    run(client, "shop", doc! { "drop": "view3" }).await;
    let validator = doc! { "n": { "$exists": true } };
    run(
        client,
        "shop",
        doc! { "collMod": "far", "validator": validator, "validationLevel": "moderate" },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "collMod": "busy", "changeStreamPreAndPostImages": { "enabled": true } },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "collMod": "busy", "index": { "name": "ttl", "expireAfterSeconds": 90_000_000 } },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "collMod": "busy", "index": { "keyPattern": { "n": 1 }, "hidden": true } },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "collMod": "busy", "index": { "name": "hidden", "hidden": false } },
    )
    .await;
    run(
        client,
        "shop",
        doc! { "dropIndexes": "busy", "index": "geo" },
    )
    .await;
    run(client, "shop", doc! { "collMod": "series", "timeseries": { "granularity": "hours" }, "expireAfterSeconds": 86_400_000 }).await;
    measure(client, 260..300).await;
    run(
        client,
        "shop",
        doc! { "create": "empty", "validator": { "a": 1 }, "validationAction": "warn" },
    )
    .await;
    run(client, "shop", doc! { "createIndexes": "empty", "indexes": [{ "key": { "u": 1 }, "name": "u", "unique": true }] }).await;
    insert(client, "gone.too", numbered(5)).await;
    run(client, "gone", doc! { "dropDatabase": 1 }).await;
}

async fn documents(client: &Client) {
    insert(client, "shop.busy", (5..10).map(place).collect()).await;
    let away = doc! { "type": "Point", "coordinates": [-70.0, -10.0] };
    let moved = doc! { "$set": { "place": away } };
    update(client, "shop.busy", doc! { "_id": 5000 }, moved).await;
    insert(
        client,
        "shop.odd",
        vec![
            doc! { "_id": 1, "v": 1 },
            doc! { "_id": { "a": 1, "b": [1] } },
            doc! { "_id": Bson::Null },
        ],
    )
    .await;
    update(
        client,
        "shop.odd",
        doc! { "_id": 1 },
        doc! { "_id": 1.0, "v": 2 },
    )
    .await;
    update(
        client,
        "shop.odd",
        doc! { "_id": 1 },
        doc! { "$set": { "w": 3 } },
    )
    .await;
    let pipeline: Bson = vec![doc! { "$set": { "_id": 1_i64, "x": { "$add": ["$v", 1] } } }].into();
    update(client, "shop.odd", doc! { "_id": 1 }, pipeline).await;
    update(
        client,
        "shop.times",
        doc! { "_id": 1 },
        doc! { "$set": { "t": Timestamp { time: 0, increment: 0 } } },
    )
    .await;
    update(
        client,
        "shop.times",
        doc! { "_id": 1 },
        doc! { "$set": { "x.y.z": [] } },
    )
    .await;
    for (number, array) in (0..40).map(|number| (number, vec![number; number as usize])) {
        insert(
            client,
            "shop.arrays",
            vec![doc! { "_id": number, "a": array }],
        )
        .await;
        let push = doc! { "$push": { "a": { "$each": [7, 8, 9], "$slice": -20 } } };
        update(client, "shop.arrays", doc! { "_id": number }, push).await;
        update(
            client,
            "shop.arrays",
            doc! { "_id": number },
            doc! { "$set": { format!("a.{}", number + 4): { "deep": [1] } } },
        )
        .await;
        update(
            client,
            "shop.arrays",
            doc! { "_id": number },
            doc! { "$set": { format!("a.{}.deep.3", number + 4): 1 } },
        )
        .await;
        update(
            client,
            "shop.arrays",
            doc! { "_id": number },
            doc! { "$pull": { "a": 8 } },
        )
        .await;
    }
    let batch = client.database("shop").collection::<Document>("arrays");
    batch
        .delete_many(doc! { "_id": { "$gt": 35 } })
        .await
        .unwrap();
    batch
        .update_many(doc! {}, doc! { "$set": { "all": true } })
        .await
        .unwrap();
}

/// More than fits into one entry.
async fn large_transaction(client: &Client, commits: bool) -> mongodb::error::Result<()> {
    let big = client.database("shop").collection::<Document>("big");
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    for id in 0..5 {
        let document = doc! { "_id": format!("{commits} {id}"), "pad": "y".repeat(5_000_000) };
        big.insert_one(document).session(&mut session).await?;
    }
    big.update_one(
        doc! { "_id": "true 0" },
        doc! { "$set": { "pad": "short" } },
    )
    .session(&mut session)
    .await?;
    if commits {
        session.commit_transaction().await
    } else {
        session.abort_transaction().await
    }
}

async fn transactions(client: &Client) {
    for commits in [true, false] {
        let mut tries = 0;
        // A busy server with a small cache may have no room for it just now.
        while let Err(error) = large_transaction(client, commits).await {
            tries += 1;
            assert!(tries < 60, "a transaction of 25 MB: {error}");
            tokio::time::sleep(Duration::from_millis(500)).await;
        }
    }
    let mut session = client.start_session().await.unwrap();
    session.start_transaction().await.unwrap();
    let made = client
        .database("shop")
        .collection::<Document>("made_inside");
    made.insert_one(doc! { "_id": 1 })
        .session(&mut session)
        .await
        .unwrap();
    made.delete_one(doc! { "_id": 1 })
        .session(&mut session)
        .await
        .unwrap();
    made.insert_one(doc! { "_id": 1, "again": true })
        .session(&mut session)
        .await
        .unwrap();
    session.commit_transaction().await.unwrap();
}

/// GridFS, as drivers store it.
async fn files(client: &Client) {
    for file in 0..4 {
        let id = format!("file {file}");
        insert(client, "shop.fs.files", vec![doc! { "_id": &id, "length": 3_i64, "chunkSize": 1, "filename": &id, "tenant": file % 2 }]).await;
        let chunk = |n: i32| {
            let bytes = vec![file as u8, n as u8];
            let data = bson::Binary {
                subtype: bson::spec::BinarySubtype::Generic,
                bytes,
            };
            doc! { "_id": format!("{file}-{n}"), "files_id": &id, "n": n, "data": data }
        };
        insert(client, "shop.fs.chunks", (0..3).map(chunk).collect()).await;
    }
    let index = doc! { "key": { "files_id": 1, "n": 1 }, "name": "files_id_1_n_1", "unique": true };
    run(
        client,
        "shop",
        doc! { "createIndexes": "fs.chunks", "indexes": [index] },
    )
    .await;
}

/// What must not be there afterwards.
pub(crate) fn beyond(mongo: &Mongo) {
    let client = &mongo.client();
    mongo.block_on(async {
        insert(client, "shop.late", numbered(10)).await;
        run(client, "shop", doc! { "drop": "busy" }).await;
        update(
            client,
            "shop.far",
            doc! { "_id": 1 },
            doc! { "$set": { "late": true } },
        )
        .await;
        run(client, "shop", doc! { "dropUser": "before" }).await;
        run(client, "old", doc! { "dropDatabase": 1 }).await;
    });
}
