//! `make demo-mongodb`: a live replica set is archived, damaged and brought back, told in plain sentences.
//!
//! It ends with the servers' own hash of every collection against the one from before the damage, the measured RPO and RTO, and
//! leaves nothing running.

mod tellers;

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use bson::{Bson, doc};
use pitr_integration::{Daemon, Mongo, Settings, Site, Story, Tool, wait_until};

use tellers::Tellers;

const ACCOUNTS: i32 = 200_000;
const PATIENCE: Duration = Duration::from_secs(60);

/// Collection → the server's hash over all of its documents in the order of `_id`, and its indexes.
type Hashes = BTreeMap<String, String>;

fn main() {
    let site = Site::new("demo-mongodb");
    let mut story = Story::new();

    story
        .tell("A replica set starts in a scratch directory, with a bank in it (200,000 accounts).");
    let set = Mongo::single(&site, "bank0");
    fill(&set);

    story.tell("pitrd starts beside it. It is given a public key only: it can write the archive and not read it.");
    let mut settings = Settings::mongodb(&set, "pitrd");
    settings.linger = "200ms".to_owned();
    let mut daemon = Daemon::prepare(&site, settings);
    daemon.start();
    daemon.wait_following(1);
    story.show(&format!(
        "archive  file://{}",
        daemon.archive().root().display()
    ));

    story.tell("Four tellers transfer money, each transfer a transaction over three documents, and will not stop for what follows.");
    let tellers = Tellers::start(&set.uri());
    wait_until("the first transfers", PATIENCE, || tellers.booked() > 100);

    story.tell("A base copy is taken while they work: over the wire, by collection UUID, compressed, encrypted.");
    story.show(&daemon.tool().backup(&["--label", "nightly"]).stdout);

    story.tell("Ten more seconds of business. Every entry of the oplog flows into the archive as it happens.");
    let lags = sample_lags(&set, &daemon, Duration::from_secs(10));

    story.tell("Now somebody runs updateMany without a filter, and drops the ledger.");
    let before = damage(&set, &tellers);
    story.show("db.accounts.updateMany({}, { $set: { balance: 0 } })\ndb.transfers.drop()");
    tellers.wait_refused();
    story.show(&format!(
        "the application is down: {} transfers were booked, and now nobody has any money",
        tellers.finish()
    ));
    daemon.wait_covered(&set);

    story.tell("What can be restored?  (pitr-tool status)");
    story.show(&daemon.tool().run(&["status"]).success("status").stdout);

    let moment = find_moment(&mut story, &daemon.tool());
    story.tell(&format!(
        "Is the moment before it among what can be restored?  (pitr-tool plan --to {moment} --before)"
    ));
    let plan = daemon.tool().run(&["plan", "--to", &moment, "--before"]);
    story.show(&plan.success("plan").stdout);

    let (restored, rto) = restore(&mut story, &site, &daemon, &moment);

    story.tell("Every document of every collection and every index, now against the instant before the damage:");
    compare(&story, &before, &hashes(&restored));

    story.tell("The figures:");
    story.show_lags(&lags);
    story.show(&format!(
        "RTO                    {:.1} s from the command until all was loaded, read back and the same",
        rto.as_secs_f64()
    ));
    let archive_mib = daemon.archive().bytes() >> 20;
    story.show(&format!(
        "archive                {archive_mib} MiB, encrypted"
    ));
    assert_eq!(
        daemon.stop(),
        0,
        "the daemon ends cleanly: {}",
        daemon.log()
    );
    drop(restored);
    drop(daemon);
    drop(set);
    drop(site);
    story.tell("Everything that was started is stopped and the scratch directory is gone.");
}

fn fill(set: &Mongo) {
    let accounts = set.collection("bank.accounts");
    let account = |id: i32| {
        let owner = format!("customer {id}");
        let address = doc! { "street": format!("{} Main Street", id % 997), "town": id % 50 };
        doc! { "_id": id, "owner": owner, "balance": 1000_i64, "address": address, "seen": [] }
    };
    for first in (0..ACCOUNTS).step_by(10_000) {
        let batch = (first..first + 10_000).map(account);
        set.block_on(async { accounts.insert_many(batch).await })
            .expect("open accounts");
    }
    set.run(
        "bank",
        doc! { "create": "transfers", "validator": { "amount": { "$gt": 0 } } },
    );
    let index = doc! { "key": { "address.town": 1, "balance": -1 }, "name": "rich_by_town" };
    set.run(
        "bank",
        doc! { "createIndexes": "accounts", "indexes": [index] },
    );
    let index = doc! { "key": { "number": 1 }, "name": "number", "unique": true };
    set.run(
        "bank",
        doc! { "createIndexes": "transfers", "indexes": [index] },
    );
}

/// How long an acknowledged write takes to be durable in the archive, shortest first.
fn sample_lags(set: &Mongo, daemon: &Daemon, length: Duration) -> Vec<Duration> {
    let (start, mut lags) = (Instant::now(), Vec::new());
    while start.elapsed() < length {
        let (mark, at) = (set.mark(), Instant::now());
        wait_until("a write to be archived", PATIENCE, || {
            daemon.archive().oplog_end(daemon.identity()) >= Some(mark)
        });
        lags.push(at.elapsed());
    }
    lags.sort_unstable();
    lags
}

/// Holds the tellers, so that no transfer lies between the hashes and the damage.
fn damage(set: &Mongo, tellers: &Tellers) -> Hashes {
    let held = tellers.gate.write().expect("no teller panics");
    let hashes = hashes(set);
    let accounts = set.collection("bank.accounts");
    let poor = doc! { "$set": { "balance": 0_i64 } };
    set.block_on(async { accounts.update_many(doc! {}, poor).await })
        .expect("do damage");
    set.run("bank", doc! { "drop": "transfers" });
    drop(held);
    hashes
}

fn hashes(set: &Mongo) -> Hashes {
    let hash = set.run("bank", doc! { "dbHash": 1 });
    let collections = hash.get_document("collections").expect("hashes");
    let held = |(name, hash): (&String, &Bson)| {
        let count = set.run("bank", doc! { "count": name.as_str() });
        let count = count.get_i32("n").expect("a count");
        let listed = set.run("bank", doc! { "listIndexes": name.as_str() });
        let batch = listed
            .get_document("cursor")
            .and_then(|cursor| cursor.get_array("firstBatch"));
        let indexes = batch.expect("indexes").len();
        let hash = hash.as_str().expect("text");
        (
            name.clone(),
            format!("{count} documents, {indexes} indexes, hash {hash}"),
        )
    };
    collections.iter().map(held).collect()
}

/// Asks the archive what happened to one account that suffered; the target that names that entry.
fn find_moment(story: &mut Story, tool: &Tool) -> String {
    story.tell("What happened to account 0?  (pitr-tool history bank.accounts 0)");
    let arguments = ["history", "bank.accounts", "0"];
    let told = tool.run(&arguments).success("history").stdout;
    let lines: Vec<&str> = told.trim_end().lines().collect();
    story.show(&lines[lines.len().saturating_sub(6)..].join("\n"));
    let told = tool.run(&["history", "bank.accounts", "0", "--json"]);
    let told: serde_json::Value =
        serde_json::from_str(&told.success("history --json").stdout).expect("JSON");
    let versions = told["versions"].as_array().expect("versions");
    let last = versions.last().expect("a version");
    assert_eq!(last["document"]["balance"], 0, "{last}");
    format!("ts:{}", last["ts"].as_str().expect("a cluster time"))
}

/// Into an empty replica set that runs.
fn restore(
    story: &mut Story,
    site: &Arc<Site>,
    daemon: &Daemon,
    moment: &str,
) -> (Mongo, Duration) {
    story.tell("The archive becomes a deployment again at that moment: folded without a server, then loaded once, read back and compared.  (pitr-tool restore)");
    let restored = Mongo::single(site, "restored0");
    let uri = restored.uri();
    let began = Instant::now();
    let arguments = [moment, "--before"];
    let finished = daemon.tool().restore(&arguments, Path::new(&uri));
    let rto = began.elapsed();
    story.show(&finished.success("restore").stdout);
    (restored, rto)
}

fn compare(story: &Story, before: &Hashes, after: &Hashes) {
    for (collection, was) in before {
        let same = after.get(collection) == Some(was);
        let verdict = if same { "identical" } else { "DIFFERENT" };
        story.show(&format!("{collection:<10} {was}  {verdict}"));
    }
    assert_eq!(
        before, after,
        "the restored data differs from what was there before the damage"
    );
}
