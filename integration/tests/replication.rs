//! What arrives over a replication connection, compared with what lies on the server's disk.

use std::fs;
use std::process::Command;
use std::time::Duration;

use pitr_integration::{Finished, Postgres, Site, Stop, V15, V17, V18, Version};
use pitr_postgres::connect::ConnInfo;
use pitr_postgres::replication::{
    BackupEnd, BackupEvent, BackupMessage, BaseBackupOptions, Checkpoint, Mode, ReplicationClient,
    ReplicationError, Start, Status, WalMessage, WalStream,
};
use pitr_postgres::{Lsn, TimelineId, WalFileName};
use tokio::runtime::Runtime;

const SEGMENT_BYTES: u64 = 16 << 20;

/// Streams stay open in it while the test talks to servers by blocking means.
fn runtime() -> Runtime {
    let mut builder = tokio::runtime::Builder::new_current_thread();
    builder.enable_all().build().expect("build a runtime")
}

async fn connect(server: &Postgres) -> ReplicationClient {
    let info =
        ConnInfo::parse_with(&server.connection(), &|_| None).expect("read the connection string");
    ReplicationClient::connect(&info, Mode::Physical)
        .await
        .expect("connect")
}

async fn stream(
    client: ReplicationClient,
    slot: Option<&str>,
    start: Lsn,
    timeline: TimelineId,
) -> WalStream {
    match client
        .start_physical(slot, start, timeline)
        .await
        .expect("start")
    {
        Start::Streaming(stream) => stream,
        Start::TimelineEnded { .. } => panic!("timeline {timeline} goes on"),
    }
}

fn status(at: Lsn) -> Status {
    Status {
        written: at,
        flushed: at,
        applied: at,
        reply: false,
    }
}

/// WAL from `start` to `end` or to the end of the timeline; acknowledges at odd moments.
async fn collect(stream: &mut WalStream, start: Lsn, end: Lsn) -> Vec<u8> {
    let mut got = Vec::new();
    while start.advance(got.len() as u64) < end {
        tokio::select! {
            message = stream.next() => match message.expect("stream") {
                WalMessage::Wal { start: at, data, server_end, .. } => {
                    assert_eq!(at, start.advance(got.len() as u64));
                    assert!(at.advance(data.len() as u64) <= server_end);
                    got.extend_from_slice(&data);
                }
                WalMessage::Keepalive { .. } => {}
                WalMessage::Ended => break,
            },
            () = tokio::time::sleep(Duration::from_micros(50)) => {
                stream.send_status(status(start.advance(got.len() as u64))).await.expect("acknowledge");
            }
        }
    }
    got
}

fn assert_is_on_disk(server: &Postgres, timeline: TimelineId, start: Lsn, got: &[u8]) {
    assert_eq!(start, start.segment_start(SEGMENT_BYTES));
    for (n, part) in got.chunks(SEGMENT_BYTES as usize).enumerate() {
        let name = WalFileName::segment(
            timeline,
            start.advance(n as u64 * SEGMENT_BYTES),
            SEGMENT_BYTES,
        );
        let disk = fs::read(server.data().join("pg_wal").join(&name)).expect("read a WAL segment");
        assert!(
            part == &disk[..part.len()],
            "{name} differs from what was streamed"
        );
    }
}

fn wal_is_what_lies_on_disk(version: Version, name: &str) {
    let site = Site::new(name);
    let server = Postgres::start_new(&site, version, "server", "wal_keep_size = '1GB'");
    let start: Lsn = server.flushed().parse().expect("an LSN");
    let start = start.segment_start(SEGMENT_BYTES);
    server.pgbench_init(8);
    server.pgbench(4, 500);
    let end: Lsn = server.flushed().parse().expect("an LSN");
    assert!(end.bytes_since(start) > 4 * SEGMENT_BYTES);
    let got = runtime().block_on(async {
        let mut stream = stream(connect(&server).await, None, start, TimelineId(1)).await;
        let got = collect(&mut stream, start, end).await;
        let (mut client, next) = stream.finish().await.expect("stop");
        assert_eq!(next, None);
        client
            .identify_system()
            .await
            .expect("the connection is as good as new");
        got
    });
    assert_is_on_disk(&server, TimelineId(1), start, &got);
}

#[test]
fn wal_of_15_arrives_as_it_lies_on_disk() {
    wal_is_what_lies_on_disk(V15, "wal15");
}

#[test]
fn wal_of_17_arrives_as_it_lies_on_disk() {
    wal_is_what_lies_on_disk(V17, "wal17");
}

#[test]
fn wal_of_18_arrives_as_it_lies_on_disk() {
    wal_is_what_lies_on_disk(V18, "wal18");
}

fn a_promotion_is_followed(version: Version, name: &str) {
    let site = Site::new(name);
    let mut primary = Postgres::start_new(&site, version, "primary", "wal_keep_size = '1GB'");
    let standby = primary.standby("standby");
    primary.pgbench_init(1);
    primary.wait_standby(&standby);
    let start: Lsn = primary.flushed().parse().expect("an LSN");
    let start = start.segment_start(SEGMENT_BYTES);
    let runtime = runtime();
    let mut open = runtime
        .block_on(async { stream(connect(&standby).await, None, start, TimelineId(1)).await });
    primary.fail_over_to(&standby);
    standby
        .session()
        .run("create table after as select generate_series(1, 1000)");

    let (old, client, switch) = runtime.block_on(async {
        let old = collect(&mut open, start, Lsn(u64::MAX)).await;
        assert_eq!(open.next().await.expect("stream"), WalMessage::Ended);
        let (client, next) = open.finish().await.expect("finish");
        let (timeline, switch) = next.expect("a promotion has a next timeline");
        assert_eq!(timeline, TimelineId(2));
        assert!(switch <= start.advance(old.len() as u64));
        (old, client, switch)
    });
    let new_start = switch.segment_start(SEGMENT_BYTES);
    let new = runtime.block_on(follow(&standby, client, switch));
    let shared = switch.bytes_since(new_start) as usize;
    let from = new_start.bytes_since(start) as usize;
    assert!(
        old[from..from + shared] == new[..shared],
        "both timelines have what lies before the switch"
    );
    assert_is_on_disk(&standby, TimelineId(2), new_start, &new);
}

/// The history file, the very end of timeline 1, and WAL of timeline 2 from the segment of the switch on.
async fn follow(server: &Postgres, mut client: ReplicationClient, switch: Lsn) -> Vec<u8> {
    let history = client
        .timeline_history(TimelineId(2))
        .await
        .expect("history");
    let disk = fs::read(server.data().join("pg_wal/00000002.history")).expect("read");
    assert_eq!(
        (history.name.as_str(), &history.bytes[..]),
        ("00000002.history", &disk[..])
    );
    let mut client = match client
        .start_physical(None, switch, TimelineId(1))
        .await
        .expect("start")
    {
        Start::TimelineEnded {
            client,
            next,
            switch: same,
        } => {
            assert_eq!((next, same), (TimelineId(2), switch));
            client
        }
        Start::Streaming(_) => panic!("there is nothing at the very end"),
    };
    let end = client.identify_system().await.expect("identify").flush_lsn;
    let start = switch.segment_start(SEGMENT_BYTES);
    let mut stream = stream(client, None, start, TimelineId(2)).await;
    collect(&mut stream, start, end).await
}

#[test]
fn a_promotion_of_15_is_followed_to_the_byte() {
    a_promotion_is_followed(V15, "promo15");
}

#[test]
fn a_promotion_of_17_is_followed_to_the_byte() {
    a_promotion_is_followed(V17, "promo17");
}

#[test]
fn a_promotion_of_18_is_followed_to_the_byte() {
    a_promotion_is_followed(V18, "promo18");
}

/// An acknowledged end lets the server stop at once, and its going is not taken for a lost connection.
fn a_stop_is_quick_and_clean(version: Version, name: &str) {
    let site = Site::new(name);
    let mut server = Postgres::start_new(&site, version, "server", "");
    server.pgbench_init(1);
    let end: Lsn = server.flushed().parse().expect("an LSN");
    let start = end.segment_start(SEGMENT_BYTES);
    let ((at, error), took) = std::thread::scope(|scope| {
        let server = &mut server;
        let runtime = runtime();
        let mut open = runtime.block_on(async {
            let mut client = connect(server).await;
            client
                .create_physical_slot("s", true, false)
                .await
                .expect("create");
            stream(client, Some("s"), start, TimelineId(1)).await
        });
        let reader = scope.spawn(move || {
            runtime.block_on(async {
                let mut at = start;
                loop {
                    match open.next().await {
                        Ok(WalMessage::Wal { start, data, .. }) => {
                            at = start.advance(data.len() as u64)
                        }
                        Ok(_) => {}
                        Err(error) => break (at, error),
                    }
                    open.send_status(status(at)).await.expect("acknowledge");
                }
            })
        });
        server.wait_archived("s", Duration::from_secs(60));
        let took = server.stop(Stop::Fast);
        (reader.join().expect("the reader"), took)
    });
    assert!(matches!(error, ReplicationError::ShuttingDown), "{error}");
    assert!(took < Duration::from_secs(30), "stopping took {took:?}");
    assert!(at > end, "the shutdown checkpoint was received");
}

#[test]
fn a_stop_of_15_is_quick_and_clean() {
    a_stop_is_quick_and_clean(V15, "stop15");
}

#[test]
fn a_stop_of_18_is_quick_and_clean() {
    a_stop_is_quick_and_clean(V18, "stop18");
}

#[test]
fn wal_that_is_gone_is_said_to_be_gone() {
    let site = Site::new("gone");
    let server = Postgres::start_new(
        &site,
        V17,
        "server",
        "max_wal_size = '32MB'\nmin_wal_size = '32MB'",
    );
    let start: Lsn = server.flushed().parse().expect("an LSN");
    server.pgbench_init(10);
    server.session().run("checkpoint");
    server.session().run("select pg_switch_wal(); checkpoint");
    let error = runtime().block_on(async {
        let start = start.segment_start(SEGMENT_BYTES);
        match connect(&server)
            .await
            .start_physical(None, start, TimelineId(1))
            .await
        {
            Ok(Start::Streaming(mut stream)) => stream.next().await.expect_err("it was removed"),
            Ok(Start::TimelineEnded { .. }) => panic!("the timeline goes on"),
            Err(error) => error,
        }
    });
    assert!(
        matches!(error, ReplicationError::WalRemoved(_)) && error.is_permanent(),
        "{error}"
    );
}

const OPTIONS: BaseBackupOptions = BaseBackupOptions {
    label: String::new(),
    checkpoint: Checkpoint::Fast,
    max_rate_kib: None,
    incremental: false,
    progress: true,
    manifest: true,
};

/// Unpacks a base backup into `into`, tablespaces beside it, and returns its manifest.
fn take(server: &Postgres, into: &str, previous: Option<&[u8]>) -> (Vec<u8>, Lsn, BackupEnd) {
    let site = server.site();
    let (mut files, mut manifest) = (Vec::<(String, Vec<u8>)>::new(), None);
    let (start, end) = runtime().block_on(async {
        let mut client = connect(server).await;
        if let Some(previous) = previous {
            client.upload_manifest(previous).await.expect("upload");
        }
        let options = BaseBackupOptions {
            label: "it's a \\ label".into(),
            incremental: previous.is_some(),
            ..OPTIONS
        };
        let mut backup = client.base_backup(&options).await.expect("start");
        let locations = backup
            .start()
            .tablespaces
            .iter()
            .filter(|t| t.location.is_some())
            .count();
        assert_eq!(locations, 1);
        let end = loop {
            match backup.next().await.expect("backup") {
                BackupEvent::Message(BackupMessage::Archive { name, .. }) => {
                    files.push((name, Vec::new()))
                }
                BackupEvent::Message(BackupMessage::Manifest) => manifest = Some(Vec::new()),
                BackupEvent::Message(BackupMessage::Data(data)) => {
                    let last = files.last_mut().map(|(_, bytes)| bytes);
                    manifest
                        .as_mut()
                        .or(last)
                        .expect("something has begun")
                        .extend_from_slice(&data);
                }
                BackupEvent::Message(BackupMessage::Progress(_)) => {}
                BackupEvent::End(end) => break end,
            }
        };
        let start = backup.start().lsn;
        let mut client = backup.finish().await.expect("finish");
        client
            .identify_system()
            .await
            .expect("the connection is as good as new");
        (start, end)
    });
    let manifest = manifest.expect("a manifest was asked for");
    let root = site.directory(into);
    for (name, bytes) in &files {
        let directory = match name.as_str() {
            "base.tar" => root.clone(),
            other => site.directory(&format!("{into}-{other}")),
        };
        let tar = site.path(name);
        fs::write(&tar, bytes).expect("write a tar");
        let mut unpack = Command::new("tar");
        Finished::run(unpack.arg("-xf").arg(&tar).arg("-C").arg(&directory)).success("tar");
    }
    // TABLESPACE_MAP: the archive has a file tablespace_map and no links.
    for (name, _) in files.iter().filter(|(name, _)| name != "base.tar") {
        let oid = name
            .strip_suffix(".tar")
            .expect("archives are named by oid");
        let link = root.join("pg_tblspc").join(oid);
        let directory = site.path(&format!("{into}-{name}"));
        std::os::unix::fs::symlink(directory, &link).expect("link");
    }
    fs::write(root.join("backup_manifest"), &manifest).expect("write the manifest");
    let mut own = Command::new("chown");
    let user = if site.is_root() {
        "postgres"
    } else {
        return (manifest, start, end);
    };
    Finished::run(own.args(["-R", user]).arg(site.root())).success("chown");
    (manifest, start, end)
}

fn a_backup_is_whole(version: Version, name: &str) {
    let site = Site::new(name);
    let summaries = if version >= V17 {
        "summarize_wal = on"
    } else {
        ""
    };
    let server = Postgres::start_new(&site, version, "server", summaries);
    server.pgbench_init(3);
    let tablespace = site.directory("ts");
    let session = server.session();
    session.run(&format!(
        "create tablespace ts location '{}'",
        tablespace.display()
    ));
    session.run("create table elsewhere tablespace ts as select generate_series(1, 50000)");
    let (manifest, start, end) = take(&server, "full", None);
    assert!(start < end.lsn && end.timeline == TimelineId(1));
    let verify = |directory: &str| {
        let mut verify = server.client("pg_verifybackup");
        Finished::run(verify.arg("-n").arg(site.path(directory))).success("pg_verifybackup");
    };
    verify("full");
    let label = fs::read_to_string(site.path("full/backup_label")).expect("read the label");
    assert!(
        label.contains("it's a \\ label") && label.contains(&start.to_string()),
        "{label}"
    );
    if version >= V17 {
        server
            .session()
            .run("update pgbench_accounts set abalance = 1 where aid < 100");
        let (second, _, _) = take(&server, "incremental", Some(&manifest));
        assert_ne!(second, manifest);
        verify("incremental");
        assert!(String::from_utf8_lossy(&second).contains("INCREMENTAL."));
    } else {
        let early =
            runtime().block_on(async { connect(&server).await.upload_manifest(b"{}").await });
        assert!(matches!(early, Err(ReplicationError::Unsupported(_))));
    }
}

#[test]
fn a_backup_of_15_is_whole() {
    a_backup_is_whole(V15, "base15");
}

#[test]
fn a_backup_of_17_is_whole() {
    a_backup_is_whole(V17, "base17");
}

#[test]
fn a_backup_of_18_is_whole() {
    a_backup_is_whole(V18, "base18");
}

#[test]
fn a_backup_that_is_cut_off_says_why() {
    let site = Site::new("cut");
    let server = Postgres::start_new(&site, V17, "server", "");
    server.pgbench_init(3);
    let runtime = runtime();
    let options = BaseBackupOptions {
        max_rate_kib: Some(1024),
        ..OPTIONS
    };
    let mut backup = runtime
        .block_on(async { connect(&server).await.base_backup(&options).await })
        .expect("start");
    runtime.block_on(backup.next()).expect("it runs");
    server
        .session()
        .run("select pg_terminate_backend(pid) from pg_stat_progress_basebackup");
    let error = runtime.block_on(async {
        loop {
            match backup.next().await {
                Ok(BackupEvent::End(_)) => panic!("it was cut off"),
                Ok(_) => {}
                Err(error) => break error,
            }
        }
    });
    assert!(
        error.to_string().contains("57P01") && !error.is_permanent(),
        "{error}"
    );
    assert!(
        runtime.block_on(backup.finish()).is_err(),
        "nothing looks whole"
    );
}
