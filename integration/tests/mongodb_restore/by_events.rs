//! The whole way with the programs themselves where the log is a change stream: to its stated limits the restored state is the
//! source's, whatever happened while the base copy was taken.

use std::path::Path;

use bson::doc;
use pitr_integration::{Daemon, Mongo, Site};

use crate::by_hand::newest;
use crate::compare::Deployment;
use crate::workload;

/// What a change stream does not show.
fn without_accounts(mut held: Deployment) -> Deployment {
    held.collections
        .retain(|name, _| !name.starts_with("admin."));
    held
}

fn json(text: &str) -> serde_json::Value {
    serde_json::from_str(text).unwrap_or_else(|error| panic!("{error}: {text}"))
}

#[test]
fn what_a_change_stream_archived_is_restored_but_for_accounts() {
    let site = Site::new("mevents");
    let source = Mongo::single(&site, "source");
    workload::before(&source);
    for view in ["early", "gone"] {
        source.run(
            "shop",
            doc! { "create": view, "viewOn": "far", "pipeline": [] },
        );
    }
    source.run(
        "old",
        doc! { "create": "old_view", "viewOn": "any", "pipeline": [] },
    );
    let daemon = Daemon::follow_events(&source, "pitrd");
    daemon.wait_covered(&source);
    let writers = workload::Writers::start(&source);
    let tool = daemon.tool();
    std::thread::scope(|scope| {
        let ddl = scope.spawn(|| workload::meanwhile(&source));
        tool.backup(&[]);
        ddl.join().expect("DDL during the copy");
    });
    source.run("shop", doc! { "drop": "gone" });
    let function = doc! { "insert": "system.js", "documents": [{ "_id": "f", "value": 1 }] };
    source.run("shop", function);
    workload::after(&source);
    assert!(writers.stop() > 100);
    let client = source.client();
    let to = source.block_on(newest(&client));
    let held = without_accounts(source.block_on(Deployment::of(&source)));
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
    held.assert_same(&without_accounts(target.block_on(Deployment::of(&target))));
    let report = json(&restored.stdout);
    assert_eq!(report["compared"], true);
    assert!(
        report["remarks"][0]
            .as_str()
            .is_some_and(|text| text.contains("users, roles"))
    );
    // The account that was there when the copy was taken, as it was then.
    assert_eq!(report["users"], 1, "{report}");
    assert_eq!(report["first_left_out"]["operation"], "create", "{report}");
    one_collection_and_a_history(&tool, &source, &target);
}

fn one_collection_and_a_history(tool: &pitr_integration::Tool, source: &Mongo, target: &Mongo) {
    let oplog = source.oplog(0);
    let dropped = |entry: &&bson::RawDocumentBuf| {
        let object = entry.get_document("o").expect("an object");
        object.get_str("drop").is_ok_and(|name| name == "busy")
    };
    let entry = oplog.iter().find(dropped).expect("the drop is logged");
    let ts: pitr_mongodb::ClusterTime = entry.get_timestamp("ts").expect("a time").into();
    let (at, uri) = (format!("ts:{ts}"), target.uri());
    let plan = tool
        .run(&["plan", "--to", &at, "--before", "--json"])
        .success("plan");
    let way = &json(&plan.stdout)["way"];
    assert_eq!(way["first_left_out"]["operation"], "drop");
    assert_eq!(way["first_left_out"]["namespace"], "shop.$cmd");
    let only = ["--only", "shop.busy", "--rename", "shop.busy=shop.rescued"];
    let arguments = [[at.as_str(), "--before", "--json"].as_slice(), &only].concat();
    tool.restore(&arguments, Path::new(&uri))
        .success("restore --before");
    assert_eq!(
        target.find("shop.rescued", doc! {}),
        target.find("shop.busy", doc! {})
    );
    let refused = tool.restore(&["latest", "--only", "shop.busy"], Path::new(&uri));
    assert!(
        refused.stderr.contains("nothing called shop.busy"),
        "{}",
        refused.said()
    );
    let history = tool
        .run(&["history", "shop.times", "1", "--json"])
        .success("history");
    let history = json(&history.stdout);
    let versions = history["versions"].as_array().expect("versions");
    let changes: Vec<_> = versions
        .iter()
        .map(|version| version["change"].clone())
        .collect();
    assert_eq!(changes, ["copied", "updated", "updated"]);
    assert_eq!(
        versions[2]["document"]["x"]["y"]["z"],
        serde_json::json!([])
    );
}
