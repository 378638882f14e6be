//! A base backup that is interrupted, at whatever call of the store, leaves nothing that looks whole.

use std::sync::Arc;

use pitr_archive::catalogue::{BackupId, Catalogue};
use pitr_archive::layout;
use pitr_archive::object::{Header, Kind};
use pitr_archive::store::SharedStore;
use pitr_archive::verify::Verifier;
use pitr_archive::writer::{BackupSettings, BackupWriter, Compressor, PART_BYTES};
use pitr_archive::{ArchiveError, Reading};
use pitr_tests::fault_store::{Failure, Fault, FaultStore};
use pitr_tests::life::{Keys, runtime, stream};
use pitr_tests::memory_store::MemoryStore;

const CONTENTS_BYTES: u64 = 2 * PART_BYTES + 5_000_000;
const MANIFEST: &[u8] = b"{\"what\":\"the engine says\"}";

fn id(second: u32) -> BackupId {
    format!("20261121T0315{second:02}Z").parse().unwrap()
}

/// The byte at `offset` of the contents: long runs, that compress, and no two MiB alike.
fn contents(offset: u64, length: usize) -> Vec<u8> {
    let byte = |at: u64| (at >> 20) as u8 ^ (at >> 9) as u8;
    (offset..offset + length as u64).map(byte).collect()
}

async fn take(store: SharedStore, id: BackupId) -> Result<Header, ArchiveError> {
    let writer = Keys::shared().writer(store).await?;
    let settings = BackupSettings {
        compression_level: 1,
        puts_in_flight: 2,
    };
    let mut backup = BackupWriter::start(writer, id, stream(), settings, Compressor::new());
    while backup.position() < CONTENTS_BYTES {
        let length = 3_000_000.min(CONTENTS_BYTES - backup.position());
        let piece = contents(backup.position(), length as usize);
        backup.append(&piece).await?;
    }
    backup.finish(100, 200, (5, 6), MANIFEST).await
}

/// Everything that the catalogue calls a whole backup is read back; how many there are, and how many are not whole.
async fn check(medium: &MemoryStore) -> (usize, usize) {
    let keys = Keys::shared();
    let archive = keys.archive(Arc::new(medium.clone())).await.unwrap();
    let reading = Reading::new(Arc::clone(&archive), keys.opener());
    let catalogue = Catalogue::read(&archive).await.unwrap();
    for backup in &catalogue.backups {
        let (name, set) = (backup.id.to_string(), backup.id.set_id());
        let mut offset = 0;
        for part in 0..backup.header.run_seq {
            let expected = archive.expected(Kind::Part, Some(&stream()), set, part);
            let opened = reading.fetch(&layout::part(&name, part), &expected).await;
            let opened = opened.unwrap();
            assert_eq!(opened.header.start, offset);
            let bytes = opened.plaintext().unwrap();
            assert!(bytes == contents(offset, bytes.len()), "part {part}");
            offset = opened.header.end;
        }
        assert_eq!(offset, CONTENTS_BYTES);
        let expected = archive.expected(Kind::Manifest, Some(&stream()), set, 0);
        let manifest = reading.fetch(&layout::manifest(&name), &expected).await;
        assert_eq!(manifest.unwrap().plaintext().unwrap(), MANIFEST);
    }
    let verifier = Verifier::new(archive, None, &|_| ());
    let verified = verifier.run().await.unwrap();
    assert!(verified.faults.is_empty(), "{:?}", verified.faults);
    assert_eq!(verified.incomplete.len(), catalogue.incomplete.len());
    (catalogue.backups.len(), catalogue.incomplete.len())
}

#[test]
fn a_backup_that_dies_at_any_call_is_whole_or_not_there_and_the_next_one_is_whole() {
    let (mut points, mut left_incomplete) = (0, 0);
    for crash in [Fault::CrashBefore, Fault::CrashAfter, Fault::CrashTorn] {
        for number in 0.. {
            let medium = MemoryStore::new();
            let store = FaultStore::new(medium.clone());
            store.at(number, crash.clone());
            let ended = runtime().block_on(async {
                tokio::select! {
                    ended = take(Arc::new(store.clone()), id(0)) => Some(ended.unwrap()),
                    () = store.crashed() => None,
                }
            });
            medium.lose_power();
            if ended.is_some() {
                assert_eq!(runtime().block_on(check(&medium)), (1, 0));
                break;
            }
            points += 1;
            let (whole, incomplete) = runtime().block_on(check(&medium));
            let manifest = medium.object(&layout::manifest(&id(0).to_string()));
            assert_eq!(
                whole,
                usize::from(manifest.is_some()),
                "{crash:?} at {number}"
            );
            left_incomplete += incomplete;
            runtime()
                .block_on(take(Arc::new(medium.clone()), id(1)))
                .unwrap();
            let after = runtime().block_on(check(&medium));
            assert_eq!(after, (whole + 1, incomplete), "{crash:?} at {number}");
        }
    }
    assert!(points >= 15, "only {points} crashes");
    assert!(
        left_incomplete > 0,
        "no crash left parts without a manifest"
    );
}

#[test]
fn a_failure_that_passes_at_any_put_does_not_spoil_a_backup() {
    for number in 4..10 {
        for fault in [
            Fault::FailBefore(Failure::Full),
            Fault::FailAfter(Failure::Unavailable),
        ] {
            let medium = MemoryStore::new();
            let store = FaultStore::new(medium.clone());
            store.at(number, fault);
            runtime()
                .block_on(take(Arc::new(store.clone()), id(0)))
                .unwrap();
            assert_eq!(runtime().block_on(check(&medium)), (1, 0), "call {number}");
        }
    }
}

#[test]
fn two_backups_of_one_second_do_not_mix() {
    let medium = MemoryStore::new();
    runtime()
        .block_on(take(Arc::new(medium.clone()), id(0)))
        .unwrap();
    let again = runtime().block_on(take(Arc::new(medium.clone()), id(0)));
    assert!(
        matches!(again, Err(ArchiveError::Fenced { .. })),
        "{again:?}"
    );
    assert_eq!(runtime().block_on(check(&medium)), (1, 0));
}
