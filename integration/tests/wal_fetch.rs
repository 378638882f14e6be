//! `wal-fetch` obeys restore_command's contract: 0 found, 1 provably not there, 126 and above for everything else.

use pitr_integration::{History, V17};

#[test]
fn exit_codes_keep_a_server_from_promoting_half_recovered() {
    let mut history = History::new("walfetch", V17);
    assert_eq!(history.daemon.stop(), 0);
    let tool = history.daemon.tool();
    let name = history
        .server
        .session()
        .value(&format!("select pg_walfile_name('{}')", history.middle.lsn));
    let out = history.site.path("fetched");
    let fetch = |name: &str| tool.run(&["wal-fetch", name, &out.display().to_string()]);

    fetch(&name).exits(0, "a WAL segment that is archived");
    let original = std::fs::read(history.server.data().join("pg_wal").join(&name))
        .expect("the server still has it");
    let fetched = std::fs::read(&out).expect("it was written");
    assert_eq!(fetched.len(), original.len(), "whole WAL segments");
    std::fs::remove_file(&out).expect("remove it");

    fetch("00000001000000FF000000FF").exits(1, "a WAL segment past the end");
    fetch("00000002.history").exits(1, "a history file that does not exist");
    assert!(!out.exists(), "nothing is written where nothing was found");

    let archive = history.daemon.archive();
    let away = history.site.path("archive-away");
    std::fs::rename(archive.root(), &away).expect("take the store away");
    for missing in [
        name.as_str(),
        "00000002.history",
        "00000001000000FF000000FF",
    ] {
        let code = fetch(missing).code;
        assert!(code >= 126, "store away, {missing}: exit {code}");
    }
    std::fs::rename(&away, archive.root()).expect("bring the store back");
    fetch(&name).exits(0, "the store is back");
    std::fs::remove_file(&out).expect("remove it");

    let segments = archive.segments();
    for segment in &segments {
        // In the first chunk, which every segment has.
        archive.flip_bit(segment, 400);
    }
    let code = fetch(&name).code;
    assert!(code >= 126, "a damaged segment: exit {code}");
    assert!(
        !out.exists(),
        "nothing that was not authenticated is left for the server"
    );
}
