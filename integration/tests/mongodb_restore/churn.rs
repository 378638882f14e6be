//! Base copies while names come and go without a pause, and restores that are killed: neither loses or mixes anything.

use std::path::Path;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bson::{DateTime, Document, doc};
use mongodb::Client;
use pitr_integration::{Daemon, Mongo, Signal, Site, Tool, wait_until};

use crate::by_hand::newest;
use crate::compare::Deployment;

/// How long anything may take.
const PATIENCE: Duration = Duration::from_secs(120);

/// DDL in a circle, on namespaces of its own, until it is told to stop.
struct Churn {
    stop: Arc<AtomicBool>,
    turns: Arc<AtomicU64>,
    thread: JoinHandle<()>,
}

impl Churn {
    fn start(set: &Mongo) -> Churn {
        let (stop, turns) = (Arc::<AtomicBool>::default(), Arc::<AtomicU64>::default());
        let (uri, stopped, done) = (set.uri(), stop.clone(), turns.clone());
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .unwrap();
            runtime.block_on(async {
                let client = Client::with_uri_str(&uri).await.unwrap();
                for number in 0.. {
                    if stopped.load(Ordering::Relaxed) {
                        return;
                    }
                    turn(&client, number).await;
                    done.fetch_add(1, Ordering::Relaxed);
                }
            });
        });
        Churn {
            stop,
            turns,
            thread,
        }
    }

    fn turns(&self) -> u64 {
        self.turns.load(Ordering::Relaxed)
    }

    fn finish(self) {
        self.stop.store(true, Ordering::Relaxed);
        self.thread.join().unwrap();
    }
}

async fn run(client: &Client, db: &str, command: Document) {
    let shown = format!("{command}");
    let ran = client.database(db).run_command(command).await;
    ran.unwrap_or_else(|error| panic!("{shown:.200}: {error}"));
}

/// What another turn may have left or not.
async fn drop_if_there(client: &Client, name: &str) {
    let churn = client.database("churn");
    let dropped = churn.run_command(doc! { "drop": name }).await;
    // There is nothing to drop in the first turn.
    drop(dropped);
}

async fn turn(client: &Client, number: i32) {
    let rows = |count: i32| -> Vec<Document> {
        let row = |id| doc! { "_id": id, "turn": number, "text": "x".repeat(60) };
        (0..count).map(row).collect()
    };
    let insert = |name: &'static str, documents: Vec<Document>| {
        run(
            client,
            "churn",
            doc! { "insert": name, "documents": documents },
        )
    };
    // A collection that wanders through names and databases, and is written under each.
    for (from, to) in [
        ("churn.a", "churn.b"),
        ("churn.b", "other.c"),
        ("other.c", "churn.a"),
    ] {
        run(client, "admin", doc! { "renameCollection": from, "to": to }).await;
        let (db, name) = to.split_once('.').unwrap();
        let set = doc! { "q": { "_id": number % 300 }, "u": { "$set": { "was": to } } };
        run(client, db, doc! { "update": name, "updates": [set] }).await;
    }
    // The same name again and again for another collection.
    drop_if_there(client, "again").await;
    run(
        client,
        "churn",
        doc! { "create": "again", "validator": { "turn": { "$gte": 0 } } },
    )
    .await;
    insert("again", rows(40)).await;
    // Another collection takes the place of one that is there.
    insert("fresh", rows(5)).await;
    let over = doc! { "renameCollection": "churn.fresh", "to": "churn.over", "dropTarget": true };
    run(client, "admin", over).await;
    drop_if_there(client, "view").await;
    let pipeline = vec![doc! { "$match": { "turn": number } }];
    run(
        client,
        "churn",
        doc! { "create": "view", "viewOn": "again", "pipeline": pipeline },
    )
    .await;
    drop_if_there(client, "series").await;
    let series = doc! { "timeField": "t", "metaField": "m" };
    run(
        client,
        "churn",
        doc! { "create": "series", "timeseries": series },
    )
    .await;
    let points = (0..20).map(
        |n| doc! { "t": DateTime::from_millis(1_790_000_000_000 + n), "m": n % 3, "v": number },
    );
    insert("series", points.collect()).await;
    file(client, number).await;
}

/// A file of GridFS is written, and an older one deleted.
async fn file(client: &Client, number: i32) {
    let file = doc! { "_id": number, "length": 2_i64, "chunkSize": 1, "filename": "f", "tenant": number % 2 };
    let chunk =
        |n: i32| doc! { "_id": format!("{number}-{n}"), "files_id": number, "n": n, "data": n };
    run(
        client,
        "churn",
        doc! { "insert": "fs.files", "documents": [file] },
    )
    .await;
    run(
        client,
        "churn",
        doc! { "insert": "fs.chunks", "documents": [chunk(0), chunk(1)] },
    )
    .await;
    for (name, field) in [("fs.files", "_id"), ("fs.chunks", "files_id")] {
        let old = doc! { "q": { field: number - 20 }, "limit": 0 };
        run(client, "churn", doc! { "delete": name, "deletes": [old] }).await;
    }
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn base_copies_taken_while_names_come_and_go_are_whole() {
    let site = Site::new("mchurn");
    let source = Mongo::single(&site, "source");
    let rows = (0..300).map(|id| doc! { "_id": id, "text": "y".repeat(200) });
    let wanders = source.collection("churn.a");
    source
        .block_on(async { wanders.insert_many(rows).await })
        .unwrap();
    let steady = source.collection("steady.rows");
    let rows = (0..20_000).map(|id| doc! { "_id": id, "text": "z".repeat(300) });
    source
        .block_on(async { steady.insert_many(rows).await })
        .unwrap();
    let daemon = Daemon::follow(&source, "pitrd");
    let churn = Churn::start(&source);
    let tool = daemon.tool();
    for copy in 0..4 {
        let before = churn.turns();
        wait_until("a turn of DDL", PATIENCE, || churn.turns() > before);
        tool.backup(&["--label", &format!("copy {copy}")]);
    }
    churn.finish();
    let client = source.client();
    let to = source.block_on(newest(&client));
    let held = source.block_on(Deployment::of(&source));
    daemon.wait_covered(&source);
    // The marks of the waiting are behind the target.
    let target = Mongo::single(&site, "target");
    let (at, uri) = (format!("ts:{to}"), target.uri());
    let restored = tool.restore(&[&at, "--json"], Path::new(&uri));
    let report = json(&restored.success("restore").stdout);
    assert_eq!(report["compared"], true);
    held.assert_same(&target.block_on(Deployment::of(&target)));

    // Part of it under another name: GridFS's pair goes together, the time series brings its buckets.
    for (only, rename, pair) in [
        (
            "churn.fs.files",
            "churn.fs.files=kept.gone.files",
            ["kept.gone.files", "kept.gone.chunks"],
        ),
        (
            "churn.series",
            "churn.series=kept.series",
            ["kept.series", "kept.system.buckets.series"],
        ),
    ] {
        let arguments = [at.as_str(), "--only", only, "--rename", rename];
        tool.restore(&arguments, Path::new(&uri)).success(only);
        let was = only.strip_suffix(".files").unwrap_or(only);
        let here = target.block_on(Deployment::of(&target));
        let twin = twin(was);
        for (name, of) in pair.iter().zip([only, &twin]) {
            let (one, two) = (&held.collections[of], &here.collections[*name]);
            assert_eq!(one.documents, two.documents, "{of} and {name}");
        }
    }
}

fn twin(name: &str) -> String {
    match name {
        "churn.series" => "churn.system.buckets.series".into(),
        bucket => format!("{bucket}.chunks"),
    }
}

#[test]
fn a_restore_that_is_killed_while_it_loads_is_begun_again_by_the_same_command() {
    let site = Site::new("mkillr");
    let source = Mongo::single(&site, "source");
    let rows = source.collection("shop.rows");
    for first in (0..60_000).step_by(10_000) {
        let batch = (first..first + 10_000).map(|id| doc! { "_id": id, "text": "z".repeat(400) });
        source
            .block_on(async { rows.insert_many(batch).await })
            .unwrap();
    }
    let index = doc! { "key": { "text": 1 }, "name": "by_text", "expireAfterSeconds": 1 };
    source.run("shop", doc! { "createIndexes": "rows", "indexes": [index] });
    let daemon = Daemon::follow(&source, "pitrd");
    let tool = daemon.tool();
    tool.backup(&[]);
    let client = source.client();
    let to = source.block_on(newest(&client));
    let held = source.block_on(Deployment::of(&source));
    daemon.wait_covered(&source);

    let target = Mongo::single(&site, "target");
    let (at, uri) = (format!("ts:{to}"), target.uri());
    let arguments = ["restore", "--to", &at, "--into", &uri, "--jobs", "1"];
    for kill in 0..2 {
        let mut restore = tool.spawn(&arguments, "killed.log");
        wait_until("documents in the target", PATIENCE, || {
            assert!(
                restore.ended().is_none(),
                "it ended first:\n{}",
                restore.log_tail()
            );
            let there = target.try_run("shop", doc! { "count": "rows" });
            there.is_ok_and(|count| count.get_i32("n").is_ok_and(|n| n > 1000))
        });
        restore.signal(Signal::Kill);
        restore.wait(PATIENCE);
        let databases = target
            .block_on(async { target.client().list_database_names().await })
            .unwrap();
        assert!(
            databases.iter().any(|name| name == "pitrd_restore"),
            "kill {kill}: {databases:?}"
        );
        // Something else is not restored over it.
        let other = tool.restore(&["latest", "--only", "shop.rows"], Path::new(&uri));
        assert_eq!(other.code, 2, "{}", other.said());
        assert!(
            other.stderr.contains("interrupted restore"),
            "{}",
            other.stderr
        );
    }
    tool.restore(&[&at], Path::new(&uri))
        .success("the same again");
    held.assert_same(&target.block_on(Deployment::of(&target)));
}

/// Kills a restore as soon as its mark is there.
fn kill_marked(tool: &Tool, into: &str, marked: impl Fn() -> bool) {
    let arguments = ["restore", "--to", "latest", "--into", into, "--jobs", "1"];
    let mut restore = tool.spawn(&arguments, "killed.log");
    wait_until("the mark", PATIENCE, || {
        let ended = restore.ended();
        assert!(ended.is_none(), "it ended first:\n{}", restore.log_tail());
        marked()
    });
    restore.signal(Signal::Kill);
    restore.wait(PATIENCE);
}

#[test]
fn latest_that_was_interrupted_is_begun_again_though_more_was_archived_since() {
    let site = Site::new("mlatest");
    let source = Mongo::single(&site, "source");
    let rows = source.collection("shop.rows");
    let fill = |first: i32| {
        let batch = (first..first + 20_000).map(|id| doc! { "_id": id, "text": "z".repeat(400) });
        source
            .block_on(async { rows.insert_many(batch).await })
            .unwrap();
    };
    fill(0);
    fill(20_000);
    let daemon = Daemon::follow(&source, "pitrd");
    let tool = daemon.tool();
    tool.backup(&[]);
    source.run("shop", doc! { "create": "passing" });
    daemon.wait_covered(&source);
    let held = source.block_on(Deployment::of(&source));

    let target = Mongo::single(&site, "target");
    let (uri, directory) = (target.uri(), site.path("files"));
    kill_marked(&tool, &uri, || {
        let there = target.try_run("shop", doc! { "count": "rows" });
        there.is_ok_and(|count| count.get_i32("n").is_ok_and(|n| n > 1000))
    });
    let into = directory.to_string_lossy().into_owned();
    kill_marked(&tool, &into, || directory.join("shop/rows.bson").exists());

    // More is archived, and what the interrupted one may have made is gone at the source.
    source.run("shop", doc! { "drop": "passing" });
    fill(40_000);
    daemon.wait_covered(&source);
    let again = tool.restore(&["latest"], Path::new(&uri)).success("again");
    assert!(
        again.stdout.contains("was interrupted here"),
        "{}",
        again.stdout
    );
    held.assert_same(&target.block_on(Deployment::of(&target)));
    tool.restore(&["latest"], &directory)
        .success("again, files");
    assert!(directory.join("shop/passing.metadata.json").exists());
    assert!(!directory.join(".pitrd-incomplete").exists());
}
