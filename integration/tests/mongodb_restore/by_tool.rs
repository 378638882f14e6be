//! The whole way with the programs themselves: the daemon archives, the tool copies, plans, restores and tells the history.

use std::path::Path;

use bson::{Document, doc};
use pitr_integration::{Daemon, Mongo, Site, Tool};
use pitr_mongodb::ClusterTime;

use crate::by_hand::newest;
use crate::compare::Deployment;
use crate::workload;

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn the_tool_brings_back_what_the_daemon_archived() {
    let site = Site::new("mtool");
    let source = Mongo::single(&site, "source");
    workload::before(&source);
    let daemon = Daemon::follow(&source, "pitrd");
    daemon.wait_covered(&source);
    let writers = workload::Writers::start(&source);
    let tool = daemon.tool();
    std::thread::scope(|scope| {
        let ddl = scope.spawn(|| workload::meanwhile(&source));
        tool.backup(&[]);
        ddl.join().expect("DDL during the copy");
    });
    workload::after(&source);
    assert!(writers.stop() > 100);
    let client = source.client();
    let to = source.block_on(newest(&client));
    let held = source.block_on(Deployment::of(&source));
    workload::beyond(&source);
    daemon.wait_covered(&source);
    let target = Mongo::single(&site, "target");
    let uri = target.uri();
    let restored = tool
        .restore(
            &[&format!("ts:{to}"), "--memory", "1 MiB", "--json"],
            Path::new(&uri),
        )
        .success("restore");
    held.assert_same(&target.block_on(Deployment::of(&target)));
    let report = json(&restored.stdout);
    assert_eq!(report["stop"], to.to_string());
    assert_eq!(report["compared"], true);
    // The workload's next, or a no-op of the server's own.
    let times = source.oplog(0);
    let mut times = times
        .iter()
        .map(|entry| ClusterTime::from(entry.get_timestamp("ts").expect("a time")));
    let next = times.find(|&time| time > to).expect("there is more");
    assert_eq!(report["first_left_out"]["ts"], next.to_string());
    // Not into what is there.
    let again = tool.restore(&["latest"], Path::new(&uri));
    assert_eq!(again.code, 2, "{}", again.said());
    just_before_the_mistake(&tool, &source, &target, &held);
    files_and_history(&site, &tool);
}

/// The collection that was dropped comes back as it was just before, beside what lives.
fn just_before_the_mistake(tool: &Tool, source: &Mongo, target: &Mongo, held: &Deployment) {
    let oplog = source.oplog(0);
    let dropped = |entry: &&bson::RawDocumentBuf| {
        let object = entry.get_document("o").expect("an object");
        object.get_str("drop").is_ok_and(|name| name == "busy")
    };
    let entry = oplog.iter().find(dropped).expect("the drop is logged");
    let ts: pitr_mongodb::ClusterTime = entry.get_timestamp("ts").expect("a time").into();
    let (at, uri) = (format!("ts:{ts}"), target.uri());
    let only = ["--only", "shop.busy", "--rename", "shop.busy=shop.rescued"];
    let arguments = [[at.as_str(), "--before", "--json"].as_slice(), &only].concat();
    let restored = tool
        .restore(&arguments, Path::new(&uri))
        .success("restore --before");
    assert_eq!(
        json(&restored.stdout)["first_left_out"]["operation"],
        "drop"
    );
    let expected: Vec<Document> = held.collections["shop.busy"]
        .documents
        .iter()
        .map(|document| Document::try_from(document).expect("BSON"))
        .collect();
    let mut found = target.find("shop.rescued", doc! {});
    found.sort_by_key(|document| document.to_vec().expect("BSON"));
    assert_eq!(found, expected);
    let one = [
        at.as_str(),
        "--before",
        "--only",
        "shop.busy",
        "--id",
        "7",
        "--as-copy",
    ];
    tool.restore(&one, Path::new(&uri)).success("restore --id");
    assert_eq!(target.find("shop.busy_restored", doc! {}).len(), 1);
    let refused = tool.restore(&["latest", "--only", "shop.busy"], Path::new(&uri));
    assert!(
        refused.stderr.contains("nothing called shop.busy"),
        "{}",
        refused.said()
    );
}

fn files_and_history(site: &Site, tool: &Tool) {
    let directory = site.path("files");
    let restored = tool
        .restore(&["latest", "--only", "shop.times"], &directory)
        .success("restore into files");
    assert!(
        restored.stdout.contains("shop.times"),
        "{}",
        restored.stdout
    );
    assert!(directory.join("shop/times.bson").exists());
    let history = tool
        .run(&["history", "shop.times", "1", "--json"])
        .success("history");
    let history = json(&history.stdout);
    let changes: Vec<_> = history["versions"]
        .as_array()
        .expect("versions")
        .iter()
        .map(|version| version["change"].clone())
        .collect();
    assert_eq!(changes, ["copied", "updated", "updated"]);
    let last = &history["versions"][2];
    assert_eq!(last["document"]["x"]["y"]["z"], serde_json::json!([]));
    assert_eq!(
        (last["provisional"].clone(), last["ts"].is_string()),
        (false.into(), true)
    );
    let ts = |number: usize| {
        format!(
            "ts:{}",
            history["versions"][number]["ts"].as_str().expect("a ts")
        )
    };
    let (first, second) = (ts(1), ts(2));
    for (range, expected) in [
        (vec!["--from", &first], vec![1, 2]),
        (vec!["--from", &second], vec![2]),
        (vec!["--to", &first], vec![0, 1]),
        (vec!["--from", &first, "--to", &first], vec![1]),
    ] {
        let command = [&["history", "shop.times", "1", "--json"][..], &range].concat();
        let part = json(&tool.run(&command).success("history of a part").stdout);
        let expected: Vec<_> = expected
            .iter()
            .map(|&number: &usize| &history["versions"][number])
            .collect();
        let found: Vec<_> = part["versions"]
            .as_array()
            .expect("versions")
            .iter()
            .collect();
        assert_eq!(found, expected, "{range:?}");
    }
    let text = tool.run(&["history", "shop.odd", "1"]).success("history");
    assert!(text.stdout.contains("replaced"), "{}", text.stdout);
    let absent = tool.run(&["history", "shop.nothing", "1"]);
    assert_eq!(absent.code, 2, "{}", absent.said());
}
