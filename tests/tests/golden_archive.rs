//! A whole archive that an independent implementation made: opened, searched, read and verified.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use pitr_archive::catalogue::Catalogue;
use pitr_archive::keys::{Identity, KeyFile, Opener};
use pitr_archive::object::{Id, Kind, StreamName};
use pitr_archive::reader::LogReader;
use pitr_archive::verify::Verifier;
use pitr_archive::{Archive, ArchiveError, Reading, layout};
use pitr_tests::memory_store::MemoryStore;
use serde_json::Value;

fn vectors() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("vectors")
}

fn expectations() -> Value {
    let text = std::fs::read_to_string(vectors().join("expectations.json")).unwrap();
    serde_json::from_str(&text).unwrap()
}

/// Every file below the folder, by its key.
fn files(folder: &Path, prefix: &str, found: &mut Vec<String>) {
    for entry in std::fs::read_dir(folder).unwrap() {
        let entry = entry.unwrap();
        let key = format!("{prefix}{}", entry.file_name().into_string().unwrap());
        if entry.file_type().unwrap().is_dir() {
            files(&entry.path(), &format!("{key}/"), found);
        } else {
            found.push(key);
        }
    }
}

fn store() -> MemoryStore {
    let (folder, medium) = (vectors().join("archive"), MemoryStore::new());
    let mut keys = Vec::new();
    files(&folder, "", &mut keys);
    for key in keys {
        medium.damage(&key, std::fs::read(folder.join(&key)).unwrap());
    }
    medium
}

async fn archive(store: &MemoryStore) -> Arc<Archive> {
    Archive::open(Arc::new(store.clone()), "memory:")
        .await
        .unwrap()
}

/// The identity and the key file, both of which the data keys are wrapped for.
fn openers() -> [Opener; 2] {
    use std::os::unix::fs::PermissionsExt;
    let (all, directory) = (expectations(), tempfile::tempdir().unwrap());
    let file = |name: &str| {
        let path = directory.path().join(name);
        std::fs::write(&path, all[name].as_str().unwrap()).unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        path
    };
    [
        Opener::Identity(Identity::load(&file("identity")).unwrap()),
        Opener::KeyFile(KeyFile::load(&file("key_file")).unwrap()),
    ]
}

/// What the key of a sealed object says it is.
fn place(key: &str) -> (Kind, Option<StreamName>, Id, u64) {
    let parts: Vec<_> = key.split('/').collect();
    let number = || u64::from_str_radix(parts[2], 16).unwrap();
    let set = || Id(parts[1].as_bytes().try_into().unwrap());
    match parts[..] {
        ["log", stream, _] => (
            Kind::Segment,
            StreamName::new(stream),
            Id::default(),
            number(),
        ),
        ["timelines", file] => {
            let stream = file.strip_suffix(".history").and_then(StreamName::new);
            (Kind::History, stream, Id::default(), 0)
        }
        ["base", _, "manifest"] => (Kind::Manifest, None, set(), 0),
        ["base", _, _] => (Kind::Part, None, set(), number()),
        _ => panic!("{key} is not sealed"),
    }
}

#[tokio::test]
async fn every_object_opens_with_the_identity_and_with_the_key_file() {
    let (store, all) = (store(), expectations());
    let told = all["archive"].as_object().unwrap();
    assert_eq!(store.keys(), told.keys().cloned().collect::<Vec<_>>());
    for opener in openers() {
        let archive = archive(&store).await;
        let reading = Reading::new(Arc::clone(&archive), opener);
        for (key, wanted) in told {
            let Some(wanted) = wanted.as_str() else {
                continue;
            };
            let (kind, stream, set, seq) = place(key);
            let expected = archive.expected(kind, stream.as_ref(), set, seq);
            let opened = reading.fetch(key, &expected).await.unwrap();
            let plaintext = opened.plaintext().unwrap();
            assert_eq!(blake3::hash(&plaintext).to_hex().as_str(), wanted, "{key}");
        }
    }
}

#[tokio::test]
async fn the_streams_runs_and_backups_are_found() {
    let store = store();
    let archive = archive(&store).await;
    assert_eq!(archive.engine(), "postgres");
    assert_eq!(archive.source()["system_identifier"], "7710468613557509837");
    let catalogue = Catalogue::read(&archive).await.unwrap();
    let [stream] = &catalogue.streams[..] else {
        panic!("{:?}", catalogue.streams);
    };
    assert_eq!(stream.end.last, Some(5));
    assert_eq!(stream.end.head.as_ref().unwrap().seq, 4);
    let runs: Vec<_> = stream
        .runs
        .iter()
        .map(|run| run.positions.clone())
        .collect();
    assert_eq!(runs, [0x300_0000..0x300_5b04, 0x500_0000..0x500_01f5]);
    let [backup] = &catalogue.backups[..] else {
        panic!("{:?}", catalogue.backups);
    };
    assert_eq!(backup.id.to_string(), "20261121T031500Z");
    assert_eq!(
        (backup.header.start, backup.header.end),
        (0x300_0028, 0x300_0100)
    );
    assert_eq!(backup.header.run_seq, 2);
    let incomplete: Vec<_> = catalogue
        .incomplete
        .iter()
        .map(ToString::to_string)
        .collect();
    assert_eq!(incomplete, ["20261122T031500Z"]);
    let log = LogReader::new(archive, stream.name.clone());
    for (position, seq) in [(0x300_0000, 0), (0x300_03e8, 1), (0x300_5b03, 3)] {
        let found = log.seq_at(&stream.runs[0], position).await.unwrap();
        assert_eq!(found, Some(seq), "{position:#x}");
    }
}

#[tokio::test]
async fn it_verifies_without_a_key_and_with_one() {
    let store = store();
    let archive = archive(&store).await;
    let [identity, _] = openers();
    let reading = Reading::new(Arc::clone(&archive), identity);
    for reading in [None, Some(&reading)] {
        let verifier = Verifier::new(Arc::clone(&archive), reading, &|_| ());
        let verified = verifier.run().await.unwrap();
        assert!(verified.faults.is_empty(), "{:?}", verified.faults);
        assert_eq!(verified.incomplete, ["20261122T031500Z"]);
        // Six segments, a history, two parts, a manifest, three key documents.
        assert_eq!(verified.objects, 13);
    }
}

#[tokio::test]
async fn damage_to_any_object_is_found_by_a_verification_and_named() {
    let whole = store();
    for key in whole.keys() {
        // The head is a hint, archive.json says who signs, and what no manifest names does not exist.
        if key == "archive.json" || key.starts_with("base/20261122") {
            continue;
        }
        let store = store();
        let mut bytes = store.object(&key).unwrap().to_vec();
        let at = bytes.len() - 20;
        bytes[at] ^= 1;
        store.damage(&key, bytes);
        let verifier = Verifier::new(archive(&store).await, None, &|_| ());
        let named = match verifier.run().await {
            Ok(verified) => verified.faults.iter().any(|f| f.to_string().contains(&key)),
            Err(error) => error.to_string().contains(&key),
        };
        assert!(named, "{key}");
    }
}

#[tokio::test]
async fn the_signing_key_comes_back_to_whoever_holds_the_identity() {
    let archive = archive(&store()).await;
    let [identity, key_file] = openers();
    let writer = archive.recover_writer_key(&identity).await.unwrap();
    assert_eq!(writer.public(), *archive.writer());
    let refused = archive.recover_writer_key(&key_file).await.unwrap_err();
    assert!(refused.to_string().contains("wrong key"), "{refused}");
}

#[tokio::test]
async fn an_archive_of_another_format_or_engine_or_source_is_refused() {
    let store = store();
    let text = String::from_utf8(store.object(layout::ARCHIVE).unwrap().to_vec()).unwrap();
    for (from, to) in [
        ("\"format\": 1", "\"format\": 2"),
        ("\"format\": 1", "\"format\": 1, \"more\": 1"),
        ("\"engine\"", "\"motor\""),
        ("\"archive_id\": \"4", "\"archive_id\": \"g"),
        ("\"writer_key\": \"", "\"writer_key\": \"A"),
    ] {
        let edited = text.replacen(from, to, 1);
        assert_ne!(edited, text);
        store.damage(layout::ARCHIVE, edited);
        let error = Archive::open(Arc::new(store.clone()), "memory:").await;
        let error = error.unwrap_err();
        assert!(matches!(error, ArchiveError::Unreadable { .. }), "{error}");
    }
    store.damage(layout::ARCHIVE, text);
    let archive = archive(&store).await;
    let source = archive.source().clone();
    archive.check_source("postgres", &source).unwrap();
    let other = archive.check_source("mongodb", &source).unwrap_err();
    assert!(matches!(
        other,
        ArchiveError::Foreign { what: "engine", .. }
    ));
    let other = archive.check_source("postgres", &Default::default());
    assert!(matches!(
        other.unwrap_err(),
        ArchiveError::Foreign { what: "source", .. }
    ));
}
