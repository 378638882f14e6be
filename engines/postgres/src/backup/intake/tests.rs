//! Streams made by hand, taken into an archive in a directory, read back through the reading side.

use std::sync::Arc;

use bytes::Bytes;
use pitr_archive::catalogue::{BackupId, Catalogue};
use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::object::{Kind, StreamName};
use pitr_archive::store::DirectoryStore;
use pitr_archive::writer::{BackupSettings, Compressor, PART_BYTES, Writer};
use pitr_archive::{Archive, Reading, layout};

use super::synthetic::{end, file, header, manifest};
use super::*;

const ID: &str = "20261121T031500Z";

struct Site {
    archive: Arc<Archive>,
    writer: Arc<Writer>,
    identity: Identity,
    _directory: tempfile::TempDir,
}

impl Site {
    async fn new() -> Self {
        let directory = tempfile::tempdir().unwrap();
        let store = Arc::new(DirectoryStore::new(directory.path()));
        let (key, identity) = (WriterKey::generate(), Identity::generate());
        let wrappers = vec![Wrapper::Recipient(identity.recipient())];
        let source = std::collections::BTreeMap::new();
        let archive = Archive::create(store, "test", "postgres", source, &key, &wrappers);
        let archive = archive.await.unwrap();
        let writer = Writer::new(Arc::clone(&archive), key, wrappers).unwrap();
        Self {
            archive,
            writer,
            identity,
            _directory: directory,
        }
    }

    fn intake(&self) -> Intake {
        let stream = StreamName::new("00000001").unwrap();
        let settings = BackupSettings {
            compression_level: 1,
            puts_in_flight: 2,
        };
        let id = ID.parse().unwrap();
        let writer = Arc::clone(&self.writer);
        Intake::new(BackupWriter::start(
            writer,
            id,
            stream,
            settings,
            Compressor::new(),
        ))
    }

    async fn contents(self, parts: u64) -> Vec<u8> {
        let id: BackupId = ID.parse().unwrap();
        let reading = Reading::new(self.archive, Opener::Identity(self.identity));
        let mut all = Vec::new();
        for part in 0..parts {
            let expected = reading
                .archive()
                .expected(Kind::Part, None, id.set_id(), part);
            let opened = reading.fetch(&layout::part(ID, part), &expected).await;
            all.extend(opened.unwrap().plaintext().unwrap());
        }
        all
    }
}

fn archive(name: &str, location: &str) -> BackupMessage {
    BackupMessage::Archive {
        name: name.into(),
        location: location.into(),
    }
}

/// The bytes as the server cuts them: into pieces of 32 KiB.
fn data(bytes: &[u8]) -> impl Iterator<Item = BackupMessage> {
    let pieces = bytes.chunks(32 << 10);
    pieces.map(|piece| BackupMessage::Data(Bytes::copy_from_slice(piece)))
}

async fn take(
    intake: &mut Intake,
    messages: impl IntoIterator<Item = BackupMessage>,
) -> Result<(), BackupError> {
    for message in messages {
        intake.take(message).await?;
    }
    Ok(())
}

/// A cluster with a tablespace elsewhere, one inside, and a file larger than a part.
fn cluster(large: &[u8]) -> (Vec<BackupMessage>, Vec<u8>) {
    let mut messages = vec![archive("16384.tar", "/srv/ts")];
    let elsewhere = [header("PG_17/", b'5', 0), file("PG_17/1", b"one"), end()];
    messages.extend(data(&elsewhere.concat()));
    messages.push(archive("16385.tar", "pg_tblspc/16385"));
    messages.extend(data(&[file("PG_17/2", b"two"), end()].concat()));
    messages.push(archive("base.tar", ""));
    let main = [
        file("base/5/1259", large),
        header("./pg_wal/archive_status/", b'5', 0),
        file("global/pg_control", b"control"),
        end(),
    ];
    messages.extend(data(&main.concat()));
    let manifest = manifest(&[
        ("pg_tblspc/16384/PG_17/1", b"one"),
        ("pg_tblspc/16385/PG_17/2", b"two"),
        ("base/5/1259", large),
        ("global/pg_control", b"control"),
    ]);
    messages.push(BackupMessage::Manifest);
    messages.extend(data(&manifest));
    (messages, manifest)
}

fn large() -> Vec<u8> {
    (0..PART_BYTES as u32 / 4 + 1000)
        .flat_map(u32::to_le_bytes)
        .collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn what_was_sent_lies_where_the_entries_say() {
    let (site, large) = (Site::new().await, large());
    let (messages, manifest) = cluster(&large);
    let mut intake = site.intake();
    take(&mut intake, messages).await.unwrap();
    let mut whole = intake.finish().await.unwrap();
    let parts = whole.writer.parts_durable().await.unwrap();
    assert_eq!(parts.count, 2);
    let all = site.contents(parts.count).await;
    let slice = |at: Contents| &all[at.offset as usize..(at.offset + at.bytes) as usize];
    assert_eq!(slice(whole.postgres_manifest_at), manifest);
    assert_eq!(whole.postgres_manifest, manifest);

    let names: Vec<_> = whole
        .entries
        .iter()
        .map(|entry| (entry.tablespace, entry.path.as_str()))
        .collect();
    let expected = [
        (Some(16384), "PG_17"),
        (Some(16384), "PG_17/1"),
        (None, "pg_tblspc/16385/PG_17/2"),
        (None, "base/5/1259"),
        (None, "pg_wal/archive_status"),
        (None, "global/pg_control"),
    ];
    assert_eq!(names, expected);
    let files: Vec<&[u8]> = whole
        .entries
        .iter()
        .filter_map(|entry| match entry.kind {
            EntryKind::File(at) => Some(slice(at)),
            _ => None,
        })
        .collect();
    assert_eq!(files, [b"one", b"two", &large[..], b"control"]);
    let tablespace = Tablespace {
        oid: 16384,
        location: "/srv/ts".into(),
    };
    assert_eq!(whole.tablespaces, [tablespace]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_stream_that_breaks_off_anywhere_is_no_backup() {
    let site = Site::new().await;
    let (messages, _) = cluster(b"small");
    for end in 0..messages.len() {
        let mut intake = site.intake();
        let taken = take(&mut intake, messages[..end].iter().cloned()).await;
        taken.unwrap();
        assert!(intake.finish().await.is_err(), "{end}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_that_is_not_what_the_manifest_says_makes_the_backup_fail() {
    let site = Site::new().await;
    let (mut messages, _) = cluster(b"small");
    let at = messages.len() - 3;
    let BackupMessage::Data(bytes) = &messages[at] else {
        panic!("the data directory's bytes come before the manifest");
    };
    let mut changed = bytes.to_vec();
    let place = changed.windows(5).position(|window| window == b"small");
    changed[place.unwrap()] ^= 1;
    messages[at] = BackupMessage::Data(changed.into());
    let mut intake = site.intake();
    take(&mut intake, messages).await.unwrap();
    let error = intake.finish().await.map(|_| ()).unwrap_err().to_string();
    assert!(error.contains("base/5/1259"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn parts_without_a_manifest_are_an_incomplete_backup() {
    let (site, large) = (Site::new().await, large());
    let (messages, _) = cluster(&large);
    let mut intake = site.intake();
    take(&mut intake, messages).await.unwrap();
    let mut whole = intake.finish().await.unwrap();
    whole.writer.parts_durable().await.unwrap();
    drop(whole);
    let catalogue = Catalogue::read(&site.archive).await.unwrap();
    assert!(catalogue.backups.is_empty());
    assert_eq!(catalogue.incomplete, [ID.parse().unwrap()]);
}
