//! Verifying an archive: structure, signatures and the chain without a key; with one, every chunk and every frame.

use std::collections::BTreeSet;
use std::sync::Arc;

use futures_util::StreamExt;

use crate::archive::Archive;
use crate::catalogue::{BackupId, read_backup};
use crate::error::ArchiveError;
use crate::keys::SignedDocument;
use crate::layout;
use crate::object::{Header, Id, Kind, StreamName};
use crate::reader::LogReader;
use crate::reading::Reading;
use crate::store::{Listed, Piece, StoreError};
use crate::writer::IN_FLIGHT_MAX;

/// Objects that are fetched at once.
const PARALLEL: usize = 8;
/// Behind every key of one level.
const LAST: &str = "~";

/// What was verified, and what is wrong.
#[derive(Debug, Default)]
pub struct Verified {
    /// Objects that were read.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// What is wrong, each with the object it concerns.
    pub faults: Vec<ArchiveError>,
    /// Backups without a manifest, which no restore will use.
    pub incomplete: Vec<String>,
}

/// One verification.
pub struct Verifier<'a> {
    archive: Arc<Archive>,
    reading: Option<&'a Reading>,
    progress: &'a (dyn Fn(u64) + Sync),
    result: Verified,
}

/// An object that passed: what the chain needs of it.
struct Sound {
    header: Header,
    hash: [u8; 32],
    bytes: u64,
}

impl<'a> Verifier<'a> {
    /// A verification of `archive`; deep if there is something to open objects with. `progress` hears the bytes of every object.
    #[must_use]
    pub fn new(
        archive: Arc<Archive>,
        reading: Option<&'a Reading>,
        progress: &'a (dyn Fn(u64) + Sync),
    ) -> Self {
        Self {
            archive,
            reading,
            progress,
            result: Verified::default(),
        }
    }

    /// Verifies all of it. An error only if the store does not answer; damage is in the result.
    pub async fn run(mut self) -> Result<Verified, ArchiveError> {
        let names = self.archive.store().children(layout::LOG).await?;
        for name in names.iter().filter_map(|name| StreamName::new(name)) {
            self.stream(&name).await?;
        }
        let names = self.archive.store().children(layout::BASE).await?;
        for id in names.iter().filter_map(|name| name.parse().ok()) {
            self.backup(id).await?;
        }
        self.histories().await?;
        self.keys().await?;
        // Damage at the end of a stream is met where the end is looked for, and again where every object is.
        let mut said = BTreeSet::new();
        self.result
            .faults
            .retain(|fault| said.insert(fault.to_string()));
        Ok(self.result)
    }

    /// The highest number of a stream. Where damage hides it the listing tells.
    async fn last(&mut self, reader: &LogReader) -> Result<Option<u64>, ArchiveError> {
        let name = reader.stream();
        match reader.end().await {
            Ok(end) => {
                for checked in [end.check_head(name), end.check_tail(name)] {
                    self.result.faults.extend(checked.err());
                }
                Ok(end.last)
            }
            Err(error) => {
                self.fault(error)?;
                let listed = self.list(&layout::stream(name)).await?;
                Ok(listed
                    .iter()
                    .filter_map(|object| layout::segment_seq(&object.key))
                    .max())
            }
        }
    }

    async fn stream(&mut self, name: &StreamName) -> Result<(), ArchiveError> {
        let reader = LogReader::new(Arc::clone(&self.archive), name.clone());
        let Some(last) = self.last(&reader).await? else {
            return Ok(());
        };
        if let Err(error) = reader.prove_present(0..last + 1).await {
            self.fault(error)?;
        }
        let wanted = (0..=last).map(|seq| {
            (
                layout::segment(name, seq),
                Kind::Segment,
                Some(name),
                Id::default(),
                seq,
            )
        });
        let (mut previous, mut strays) = (None, Strays::default());
        let this = &*self;
        let mut checks = futures_util::stream::iter(
            wanted.map(|(key, kind, stream, set, seq)| this.check(key, kind, stream, set, seq)),
        )
        .buffered(PARALLEL);
        let mut faults = Vec::new();
        let (mut objects, mut bytes) = (0, 0);
        while let Some(check) = checks.next().await {
            match check {
                Ok(sound) => {
                    objects += 1;
                    bytes += sound.bytes;
                    if !strays.end_at(&sound.header)
                        && let Some(before) = &previous
                        && let Err(reason) = follows(before, &sound)
                    {
                        strays.take(&before.header, name, reason);
                    }
                    previous = Some(sound);
                }
                Err(error) => {
                    faults.push(error);
                    previous = None;
                }
            }
        }
        drop(checks);
        faults.extend(strays.0.into_iter().map(|misfit| misfit.fault));
        self.result.objects += objects;
        self.result.bytes += bytes;
        faults.into_iter().try_for_each(|error| self.fault(error))
    }

    async fn backup(&mut self, backup: BackupId) -> Result<(), ArchiveError> {
        let (id, set) = (backup.to_string(), backup.set_id());
        let header = match read_backup(&self.archive, backup).await {
            Ok(Some(header)) => Some(header),
            Ok(None) => {
                self.result.incomplete.push(id);
                return Ok(());
            }
            Err(error) => {
                self.fault(error)?;
                None
            }
        };
        let parts: Vec<u64> = match &header {
            Some(header) => (0..header.run_seq).collect(),
            // Without the manifest nobody knows how many there should be.
            None => {
                let listed = self.list(&format!("{}{id}/", layout::BASE)).await?;
                listed
                    .iter()
                    .filter_map(|object| layout::segment_seq(&object.key))
                    .collect()
            }
        };
        let stream = header.as_ref().map(|header| &header.stream);
        let mut wanted = vec![(layout::manifest(&id), Kind::Manifest, 0)];
        wanted.extend(
            parts
                .into_iter()
                .map(|part| (layout::part(&id, part), Kind::Part, part)),
        );
        self.objects(
            wanted
                .into_iter()
                .map(|(key, kind, seq)| (key, kind, stream, set, seq)),
        )
        .await
    }

    async fn histories(&mut self) -> Result<(), ArchiveError> {
        let listed = self.list(layout::TIMELINES).await?;
        let names: Vec<_> = listed
            .iter()
            .filter_map(|object| {
                let name = object
                    .key
                    .strip_prefix(layout::TIMELINES)?
                    .strip_suffix(".history")?;
                StreamName::new(name).map(|name| (object.key.clone(), name))
            })
            .collect();
        let wanted = names
            .iter()
            .map(|(key, name)| (key.clone(), Kind::History, Some(name), Id::default(), 0));
        self.objects(wanted).await
    }

    async fn keys(&mut self) -> Result<(), ArchiveError> {
        for object in self.list("keys/").await? {
            let bytes = match self.archive.store().get(&object.key, Piece::Whole).await {
                Ok(fetched) => fetched.bytes,
                Err(error) => {
                    self.fault(error.into())?;
                    continue;
                }
            };
            let verified: Result<serde_json::Value, _> =
                SignedDocument::verify(&object.key, &bytes, self.archive.writer());
            if let Err(error) = verified {
                self.result.faults.push(error.into());
            }
            self.result.objects += 1;
            self.result.bytes += bytes.len() as u64;
        }
        Ok(())
    }

    async fn list(&self, prefix: &str) -> Result<Vec<Listed>, ArchiveError> {
        Ok(self
            .archive
            .store()
            .list(prefix, prefix..format!("{prefix}{LAST}").as_str())
            .await?)
    }

    async fn objects<'k>(
        &mut self,
        wanted: impl Iterator<Item = (String, Kind, Option<&'k StreamName>, Id, u64)>,
    ) -> Result<(), ArchiveError> {
        let this = &*self;
        let checks: Vec<_> = wanted
            .map(|(key, kind, stream, set, seq)| this.check(key, kind, stream, set, seq))
            .collect();
        let checks: Vec<_> = futures_util::stream::iter(checks)
            .buffered(PARALLEL)
            .collect()
            .await;
        for check in checks {
            match check {
                Ok(sound) => {
                    self.result.objects += 1;
                    self.result.bytes += sound.bytes;
                }
                Err(error) => self.fault(error)?,
            }
        }
        Ok(())
    }

    async fn check(
        &self,
        key: String,
        kind: Kind,
        stream: Option<&StreamName>,
        set: Id,
        seq: u64,
    ) -> Result<Sound, ArchiveError> {
        let object = self
            .archive
            .object(&key, &self.archive.expected(kind, stream, set, seq))
            .await?;
        let header = object.header().clone();
        let bytes = crate::object::object_bytes(header.payload_bytes);
        let data_key = match self.reading {
            Some(reading) => Some(reading.data_key(header.key_id).await?),
            None => None,
        };
        let work = move || {
            let hash = object.verify()?;
            if let Some(data_key) = data_key {
                object.open(&data_key)?.plaintext()?;
            }
            Ok::<_, ArchiveError>(hash)
        };
        let hash = tokio::task::spawn_blocking(work).await;
        let hash = hash.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()))?;
        (self.progress)(bytes);
        Ok(Sound {
            header,
            hash,
            bytes,
        })
    }

    /// Notes what is wrong with the archive, passes on what is wrong with the store.
    fn fault(&mut self, error: ArchiveError) -> Result<(), ArchiveError> {
        match error {
            ArchiveError::Store(StoreError::NotFound { .. }) => {}
            ArchiveError::Store(error) => return Err(error.into()),
            _ => {}
        }
        self.result.faults.push(error);
        Ok(())
    }
}

/// Segments that do not fit behind the ones before them, until it is known whether a new run begins exactly where one of those ends:
/// then fenced daemons put all that lies between. Those had it under way together, so it is no more than can be in flight; what is more was
/// built upon a segment that does not fit, and may have been acknowledged.
#[derive(Default)]
struct Strays(Vec<Misfit>);

struct Misfit {
    seq: u64,
    /// Where the segment before it ends.
    end: u64,
    fault: ArchiveError,
}

impl Strays {
    fn take(&mut self, before: &Header, name: &StreamName, reason: &str) {
        let seq = before.seq + 1;
        self.0.push(Misfit {
            seq,
            end: before.end,
            fault: ArchiveError::Unreadable {
                key: layout::segment(name, seq),
                reason: reason.into(),
            },
        });
    }

    /// True if a new run begins behind some of them, exactly where the first of those should have begun.
    fn end_at(&mut self, header: &Header) -> bool {
        let begins = header.run_seq == header.seq;
        let first = self.0.iter().position(|misfit| {
            misfit.end == header.start && header.seq - misfit.seq <= IN_FLIGHT_MAX
        });
        let Some(first) = first.filter(|_| begins) else {
            return false;
        };
        self.0.truncate(first);
        true
    }
}

/// The law of the chain: positions continue or a new run says so; the hash is that of the segment before. Another one is allowed
/// where a hole was refilled, and where two daemons met: a put of the one that was fenced may land behind the other's and fit.
fn follows(before: &Sound, sound: &Sound) -> Result<(), &'static str> {
    let (old, new) = (&before.header, &sound.header);
    let new_run = new.run_seq == new.seq;
    if !new_run && new.start != old.end {
        return Err("it does not begin where the segment before it ends");
    }
    if new_run && new.start <= old.end {
        return Err("it says that a new run begins, and there is no gap");
    }
    if !new_run && (new.run_seq, new.run_start) != (old.run_seq, old.run_start) {
        return Err("it claims another run than the segment before it");
    }
    if new.previous != before.hash && !old.refill && new.writer_id == old.writer_id {
        return Err(
            "its chain hash is not that of the segment before it: one of the two was replaced",
        );
    }
    Ok(())
}
