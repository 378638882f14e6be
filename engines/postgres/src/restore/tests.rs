//! Whole restores from archives that are made here: real objects, a cluster that is none.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU64, Ordering};

use pitr_archive::Archive;
use pitr_archive::keys::{Identity, Opener, Wrapper, WriterKey};
use pitr_archive::store::DirectoryStore;
use pitr_archive::writer::{BackupSettings, BackupWriter, Compressor, PART_BYTES, Writer};
use sha2::{Digest, Sha256};

use super::tree::tests::{entry, file, manifest};
use super::*;
use crate::backup::{Contents, Entry, EntryKind, Tablespace};
use crate::plan::StopAt;
use crate::{Lsn, Target, TimelineId};

const ID: &str = "20261121T031500Z";

/// An archive with one base backup of a few files.
struct Site {
    scratch: tempfile::TempDir,
    reading: Arc<Reading>,
    files: Vec<(Option<u32>, &'static str, Vec<u8>)>,
}

/// Bytes that compress to about a half and differ everywhere.
fn noise(bytes: usize, seed: u64) -> Vec<u8> {
    let mut state = seed.wrapping_mul(0x9E37_79B9_7F4A_7C15) | 1;
    let mut step = || {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state >> 32) as u8 & 0x0F
    };
    (0..bytes).map(|_| step()).collect()
}

fn postgres_manifest(files: &[(String, &[u8])]) -> Vec<u8> {
    let line = |(name, bytes): &(String, &[u8])| {
        let crc: String = crc32c::crc32c(bytes)
            .to_le_bytes()
            .iter()
            .map(|b| format!("{b:02x}"))
            .collect();
        format!(
            "{{ \"Path\": \"{name}\", \"Size\": {}, \"Last-Modified\": \"2026-11-21 03:15:00 GMT\", \
             \"Checksum-Algorithm\": \"CRC32C\", \"Checksum\": \"{crc}\" }}",
            bytes.len()
        )
    };
    let lines: Vec<_> = files.iter().map(line).collect();
    let text = format!(
        "{{ \"PostgreSQL-Backup-Manifest-Version\": 1,\n\"Files\": [\n{}\n],\n\"WAL-Ranges\": [\n\
         {{ \"Timeline\": 1, \"Start-LSN\": \"0/2000028\", \"End-LSN\": \"0/2000100\" }}\n],\n",
        lines.join(",\n")
    );
    let hash: String = Sha256::digest(&text)
        .iter()
        .map(|b| format!("{b:02x}"))
        .collect();
    format!("{text}\"Manifest-Checksum\": \"{hash}\"}}\n").into_bytes()
}

impl Site {
    async fn new() -> Self {
        Self::with(|_, _| {}).await
    }

    /// `change` may change our manifest and what PostgreSQL's manifest says.
    async fn with(change: impl FnOnce(&mut BackupManifest, &mut Vec<(String, &[u8])>)) -> Self {
        let scratch = tempfile::tempdir().unwrap();
        let files = vec![
            (None, "PG_VERSION", b"17\n".to_vec()),
            (None, "base/5/1259", noise(3 << 20, 1)),
            (
                None,
                "base/5/16384",
                noise(PART_BYTES as usize + (5 << 20), 2),
            ),
            (None, "base/5/empty", Vec::new()),
            (Some(16400), "PG_17/5/16401", noise(PART_BYTES as usize, 3)),
            (
                None,
                "backup_label",
                b"START WAL LOCATION: 0/2000028\n".to_vec(),
            ),
            (None, "tablespace_map", b"16400 /fast\n".to_vec()),
            (
                None,
                "postgresql.auto.conf",
                b"recovery_target_xid = '7'\nwork_mem = '5MB'\n".to_vec(),
            ),
            (None, "standby.signal", Vec::new()),
            (None, "global/pg_control", noise(8192, 4)),
        ];
        let name = |(oid, path, _): &(Option<u32>, &str, Vec<u8>)| match oid {
            Some(oid) => format!("pg_tblspc/{oid}/{path}"),
            None => (*path).to_owned(),
        };
        let mut said: Vec<_> = files.iter().map(|file| (name(file), &*file.2)).collect();
        let mut contents = Vec::new();
        let mut entries = ["base", "base/5", "global", "pg_wal"]
            .map(|path| entry(path, EntryKind::Directory))
            .to_vec();
        for (oid, path, bytes) in &files {
            let mut entry: Entry = file(path, contents.len() as u64, bytes.len() as u64);
            entry.tablespace = *oid;
            contents.extend_from_slice(bytes);
            entries.push(entry);
        }
        let mut in_tablespace = entry("PG_17/5", EntryKind::Directory);
        in_tablespace.tablespace = Some(16400);
        entries.push(in_tablespace);
        let mut ours = manifest(entries, 0);
        ours.tablespaces = vec![Tablespace {
            oid: 16400,
            location: "/fast".into(),
        }];
        change(&mut ours, &mut said);
        let theirs = postgres_manifest(&said);
        ours.postgres_manifest = Contents {
            offset: contents.len() as u64,
            bytes: theirs.len() as u64,
        };
        contents.extend_from_slice(&theirs);
        ours.contents_bytes = contents.len() as u64;
        let reading = Self::archive(scratch.path(), ours, &contents).await;
        Self {
            scratch,
            reading,
            files,
        }
    }

    async fn archive(root: &Path, mut ours: BackupManifest, contents: &[u8]) -> Arc<Reading> {
        let store = Arc::new(DirectoryStore::new(root.join("archive")));
        let (key, identity) = (WriterKey::generate(), Identity::generate());
        let wrappers = vec![Wrapper::Recipient(identity.recipient())];
        let archive = Archive::create(
            store,
            "file:///test",
            "postgres",
            BTreeMap::new(),
            &key,
            &wrappers,
        );
        let archive = archive.await.unwrap();
        let writer = Writer::new(Arc::clone(&archive), key, wrappers).unwrap();
        let settings = BackupSettings {
            compression_level: 1,
            puts_in_flight: 2,
        };
        let stream = TimelineId(1).stream_name();
        let id = ID.parse().unwrap();
        let mut backup = BackupWriter::start(writer, id, stream, settings, Compressor::new());
        backup.append(contents).await.unwrap();
        ours.parts = contents.len().div_ceil(PART_BYTES as usize) as u64;
        backup.finish(1, 2, (0, 0), &ours.encode()).await.unwrap();
        Arc::new(Reading::new(archive, Opener::Identity(identity)))
    }

    fn root(&self) -> PathBuf {
        self.scratch.path().join("restored")
    }

    fn options(&self) -> RestoreOptions {
        RestoreOptions {
            into: self.root(),
            tablespaces: vec![("/fast".into(), self.scratch.path().join("fast"))],
            jobs: NonZeroUsize::new(2).unwrap(),
            action: Action::Pause,
            commands: Commands {
                restore: "fetch %f %p".into(),
                end: "end".into(),
            },
            pg_bin: None,
            watch: Arc::new(|_| {}),
        }
    }

    async fn restore(&self) -> Result<Restored, RestoreError> {
        restore(Arc::clone(&self.reading), &plan(), &self.options()).await
    }

    fn part(&self, seq: u64) -> PathBuf {
        let key = pitr_archive::layout::part(ID, seq);
        self.scratch.path().join("archive").join(key)
    }

    /// Every file is there, with its contents, but for what a restore changes.
    fn check(&self) {
        let into = self.root();
        let read = |path: &str| fs::read(into.join(path));
        for (oid, path, bytes) in &self.files {
            let changed = ["tablespace_map", "postgresql.auto.conf", "standby.signal"];
            if changed.contains(path) {
                continue;
            }
            let path = oid.map_or((*path).to_owned(), |oid| format!("pg_tblspc/{oid}/{path}"));
            assert!(read(&path).unwrap() == *bytes, "{path} differs");
        }
        assert!(read("tablespace_map").is_err() && read("standby.signal").is_err());
        assert!(read(mark::MARK).is_err() && read("global/pg_control.pitrd").is_err());
        let settings = String::from_utf8(read("postgresql.auto.conf").unwrap()).unwrap();
        assert!(settings.starts_with("work_mem = '5MB'\n"), "{settings}");
        assert!(
            settings.contains("recovery_target_lsn = '0/3000028'"),
            "{settings}"
        );
        assert!(read("recovery.signal").is_ok());
        let mode = fs::metadata(&into).unwrap().permissions().mode();
        assert_eq!(mode & 0o777, 0o700);
        let place = fs::read_link(into.join("pg_tblspc/16400")).unwrap();
        assert_eq!(place, self.scratch.path().join("fast"));
    }

    fn assert_does_not_start(&self) {
        assert!(!self.root().join("global/pg_control").exists());
    }
}

fn plan() -> Plan {
    let lsn = Lsn(0x300_0028);
    Plan {
        target: Target::Latest,
        before: false,
        stop: StopAt::Record {
            lsn,
            inclusive: true,
        },
        last_commit: None,
        first_left_out: None,
        timeline: TimelineId(1),
        bases: vec![ID.parse().unwrap()],
        base_bytes: 0,
        base_objects: 0,
        path: vec![],
        missing: None,
    }
}

#[tokio::test]
async fn files_that_span_parts_come_back_as_they_were() {
    let site = Site::new().await;
    let written = Arc::new(AtomicU64::new(0));
    let counted = Arc::clone(&written);
    let mut options = site.options();
    options.watch = Arc::new(move |event| {
        if let Event::Written(bytes) = event {
            counted.fetch_add(bytes, Ordering::Relaxed);
        }
    });
    let restored = restore(Arc::clone(&site.reading), &plan(), &options)
        .await
        .unwrap();
    site.check();
    assert_eq!(restored.bytes, written.load(Ordering::Relaxed));
    assert_eq!(restored.missing_configuration.len(), 3);
    let again = site.restore().await.unwrap_err();
    assert!(again.to_string().contains("not empty"), "{again}");
    site.check();
}

#[tokio::test]
async fn a_restore_interrupted_at_any_part_does_not_start_and_goes_on() {
    let site = Site::new().await;
    let parts = 3;
    let away = site.scratch.path().join("away");
    fs::create_dir(&away).unwrap();
    let hide = |seq: u64| fs::rename(site.part(seq), away.join(seq.to_string())).unwrap();
    let bring_back = |seq: u64| fs::rename(away.join(seq.to_string()), site.part(seq)).unwrap();
    for missing in 0..parts {
        hide(missing);
        let error = site.restore().await.unwrap_err();
        assert!(matches!(error, RestoreError::Archive(_)), "{error}");
        site.assert_does_not_start();
        bring_back(missing);
        // Parts that are recorded are not fetched again: without them the restore goes on.
        let text = fs::read_to_string(site.root().join(mark::MARK)).unwrap();
        let recorded = |seq: &u64| text.contains(&format!("{{\"part\":{{\"seq\":{seq},"));
        let recorded: Vec<u64> = (0..parts).filter(recorded).collect();
        assert!(missing == 0 || !recorded.is_empty(), "{missing}: {text}");
        recorded.iter().for_each(|&seq| hide(seq));
        site.restore().await.unwrap();
        site.check();
        recorded.iter().for_each(|&seq| bring_back(seq));
        fs::remove_dir_all(site.root()).unwrap();
        fs::remove_dir_all(site.scratch.path().join("fast")).unwrap();
    }
}

#[tokio::test]
async fn a_restore_killed_while_the_server_was_set_up_goes_on() {
    let site = Site::new().await;
    fs::write(
        site.part(2).with_extension("copy"),
        fs::read(site.part(2)).unwrap(),
    )
    .unwrap();
    let options = site.options();
    let into = site.root();
    let id = ID.parse().unwrap();
    let ours = read_manifest(&site.reading, id).await.unwrap();
    let outside = place::tablespaces(&ours.tablespaces, &options.tablespaces).unwrap();
    let mark = into.join(MARK);
    let laid = lay(&site.reading, id, ours, &into, outside, &mark, &options)
        .await
        .unwrap();
    settings::write(&into, &plan(), options.action, &options.commands).unwrap();
    drop(laid);
    site.assert_does_not_start();
    site.restore().await.unwrap();
    site.check();
}

/// A restore that was killed when the directory could already be started from, before its mark was taken away.
async fn killed_at_the_very_end(site: &Site) {
    let options = site.options();
    let into = site.root();
    let id = ID.parse().unwrap();
    let ours = read_manifest(&site.reading, id).await.unwrap();
    let outside = place::tablespaces(&ours.tablespaces, &options.tablespaces).unwrap();
    let mark = into.join(MARK);
    let laid = lay(&site.reading, id, ours, &into, outside, &mark, &options)
        .await
        .unwrap();
    laid.set_modes().unwrap();
    let mut earlier = plan();
    earlier.stop = StopAt::Consistency;
    settings::write(&into, &earlier, options.action, &options.commands).unwrap();
    laid.name_control().unwrap();
}

#[tokio::test]
async fn a_restore_killed_at_the_very_end_takes_another_target() {
    let site = Site::new().await;
    killed_at_the_very_end(&site).await;
    let settings = site.root().join("postgresql.auto.conf");
    assert!(fs::read_to_string(&settings).unwrap().contains("immediate"));
    let restored = site.restore().await.unwrap();
    site.check();
    assert_eq!(restored.fetched_bytes, 0);
    let text = fs::read_to_string(&settings).unwrap();
    assert!(!text.contains("immediate"), "{text}");
}

#[tokio::test]
async fn a_server_that_was_started_in_between_keeps_its_directory() {
    let site = Site::new().await;
    killed_at_the_very_end(&site).await;
    let (label, pid) = (
        site.root().join("backup_label"),
        site.root().join("postmaster.pid"),
    );
    let settings = || fs::read(site.root().join("postgresql.auto.conf")).unwrap();
    let before = settings();
    let refused = || async {
        let error = site.restore().await.unwrap_err();
        assert!(error.to_string().contains("was started"), "{error}");
        assert_eq!(settings(), before);
        assert!(site.root().join(MARK).exists());
    };
    // A server that runs, and has not read the label yet.
    fs::write(&pid, "1\n").unwrap();
    refused().await;
    assert!(pid.exists());
    // A server that recovered and was stopped.
    fs::remove_file(&pid).unwrap();
    fs::rename(&label, site.root().join("backup_label.old")).unwrap();
    refused().await;
    assert!(site.root().join("backup_label.old").exists());
    // One that could not begin left everything as it was.
    fs::rename(site.root().join("backup_label.old"), &label).unwrap();
    site.restore().await.unwrap();
    site.check();
}

#[tokio::test]
async fn a_mark_that_says_nothing_does_not_vouch_for_a_tablespace() {
    let site = Site::new().await;
    let fast = site.scratch.path().join("fast");
    fs::create_dir(&fast).unwrap();
    fs::write(fast.join("precious"), "").unwrap();
    fs::create_dir(site.root()).unwrap();
    fs::write(site.root().join(MARK), "{\"version\":1,").unwrap();
    let error = site.restore().await.unwrap_err();
    assert!(error.to_string().contains("--tablespace"), "{error}");
    assert_eq!(fs::read_dir(&fast).unwrap().count(), 1);
    fs::remove_file(fast.join("precious")).unwrap();
    site.restore().await.unwrap();
    site.check();
}

#[tokio::test]
async fn a_file_that_is_not_what_postgresql_said_is_named_and_nothing_starts() {
    let other = noise(3 << 20, 9);
    for (case, named) in [
        ("checksum", "base/5/1259"),
        ("size", "PG_VERSION"),
        ("missing", "base/5/9999"),
    ] {
        let change = |_: &mut BackupManifest, said: &mut Vec<(String, &[u8])>| {
            let other: &'static [u8] = Box::leak(other.clone().into_boxed_slice());
            match case {
                "checksum" => said[1].1 = other,
                "size" => said[0].1 = b"17",
                _ => said.push((named.into(), b"")),
            }
        };
        let site = Site::with(change).await;
        let error = site.restore().await.unwrap_err();
        let RestoreError::Mismatch { file, .. } = &error else {
            panic!("{error}")
        };
        assert_eq!(file, named, "{case}");
        site.assert_does_not_start();
    }
}

#[tokio::test]
async fn a_damaged_part_is_not_written() {
    let site = Site::new().await;
    let mut bytes = fs::read(site.part(1)).unwrap();
    let middle = bytes.len() / 2;
    bytes[middle] ^= 1;
    fs::write(site.part(1), bytes).unwrap();
    assert!(matches!(
        site.restore().await,
        Err(RestoreError::Archive(_))
    ));
    site.assert_does_not_start();
}

#[tokio::test]
async fn what_is_not_ours_is_left_alone() {
    let site = Site::new().await;
    fs::create_dir(site.root()).unwrap();
    fs::write(site.root().join("precious"), "").unwrap();
    let error = site.restore().await.unwrap_err();
    assert!(matches!(error, RestoreError::Place { .. }), "{error}");
    assert_eq!(fs::read_dir(site.root()).unwrap().count(), 1);
    fs::remove_dir_all(site.root()).unwrap();
    let fast = site.scratch.path().join("fast");
    fs::create_dir(&fast).unwrap();
    fs::write(fast.join("precious"), "").unwrap();
    let error = site.restore().await.unwrap_err();
    assert!(error.to_string().contains("--tablespace"), "{error}");
    assert!(!site.root().exists());
}

#[tokio::test]
async fn parts_that_do_not_add_up_are_refused() {
    let site = Site::with(|ours, _| ours.entries.retain(|entry| entry.path != "base/5/1259")).await;
    let error = site.restore().await.unwrap_err();
    assert!(
        matches!(&error, RestoreError::Mismatch { file, .. } if file == "base/5/1259"),
        "{error}"
    );
    site.assert_does_not_start();
}

#[tokio::test]
async fn an_incremental_backup_asks_for_postgresql_s_programs_before_anything_is_fetched() {
    let site = Site::new().await;
    let mut plan = plan();
    plan.bases.push(ID.parse().unwrap());
    let error = restore(Arc::clone(&site.reading), &plan, &site.options())
        .await
        .unwrap_err();
    assert!(error.to_string().contains("--pg-bin"), "{error}");
    assert_eq!(
        fs::read_dir(site.scratch.path()).unwrap().count(),
        1,
        "nothing but the archive"
    );
}
