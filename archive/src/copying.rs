//! Bringing a copy up to the archive it is a copy of: whatever is missing there is read here and put there, what names after what is
//! named. Nothing is ever replaced but heads. [`follow`] keeps it so.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::ControlFlow;
use std::time::{Duration, Instant};

use futures_util::stream::{StreamExt, TryStreamExt, iter};
use tokio::sync::watch;

use crate::layout;
use crate::object::TRAILER_BYTES;
use crate::store::{Listed, Piece, SharedStore, StoreError, Told, found, put_same, require_copy};
use crate::writer::IN_FLIGHT_MAX;

/// Above every letter of a key.
const LAST: &str = "~";
/// Objects on their way at once. Fewer than may be missing near the end of a log, so that a copy that is interrupted is one that a
/// crash could have left.
const PARALLEL: usize = 8;

/// What others put, a backup by hand for example, is looked for so often.
const PASS_EVERY: Duration = Duration::from_secs(600);
const BACKOFF_FIRST: Duration = Duration::from_millis(500);
const BACKOFF_MAX: Duration = Duration::from_secs(30);

/// One copy, and how far it is known to be the same.
#[derive(Debug)]
pub struct Copying {
    from: SharedStore,
    copy: SharedStore,
    /// An explicit repair of the archive, which may be gone as a whole, and whose heads are newer.
    back: bool,
    /// Segments behind a hole near the end as well.
    past_holes: bool,
    /// By prefix, the last key up to which the copy has everything.
    same: BTreeMap<String, String>,
    /// Base backups that the copy has whole.
    whole: BTreeSet<String>,
}

/// What a pass did.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Copied {
    /// Objects put into the copy.
    pub objects: u64,
    /// Their bytes.
    pub bytes: u64,
    /// Objects that lie damaged where they are copied from, and were left out.
    pub damaged: u64,
}

impl Copying {
    /// From `from` into `copy`.
    #[must_use]
    pub fn new(from: SharedStore, copy: SharedStore) -> Self {
        Self {
            from,
            copy,
            back: false,
            past_holes: false,
            same: BTreeMap::new(),
            whole: BTreeSet::new(),
        }
    }

    /// With segments behind a hole that a crash left near the end: they count as durable as soon as the hole is filled.
    #[must_use]
    pub(crate) fn past_holes(self) -> Self {
        Self {
            past_holes: true,
            ..self
        }
    }

    /// From a copy back into the archive, which has lost something: its heads are newer, so they stay.
    #[must_use]
    pub fn back(copy: SharedStore, archive: SharedStore) -> Self {
        Self {
            back: true,
            ..Self::new(copy, archive)
        }
    }

    /// One pass over everything; what an earlier pass has seen is not listed again. `progress` hears the bytes of each object.
    ///
    /// # Errors
    /// If either store fails, or the copy is none (yet), or holds other bytes under a key.
    pub async fn run(
        &mut self,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<Copied, StoreError> {
        let mut copied = Copied::default();
        // The first object of an archive, without which a directory is none.
        if self.back {
            self.one(layout::ARCHIVE, &mut copied).await?;
        } else {
            require_copy(&*self.from, &*self.copy).await?;
        }
        for prefix in [layout::KEYS, layout::TIMELINES] {
            let listed = list(&self.from, prefix, prefix).await?;
            self.missing(prefix, prefix, listed, &mut copied, progress)
                .await?;
        }
        for stream in self.from.children(layout::LOG).await? {
            let prefix = format!("{}{stream}/", layout::LOG);
            self.log(&prefix, &mut copied, progress).await?;
        }
        for backup in self.from.children(layout::BASE).await? {
            if !self.whole.contains(&backup) {
                self.base(&backup, &mut copied, progress).await?;
            }
        }
        Ok(copied)
    }

    /// The segments of a stream, then its head as it was before they were listed.
    async fn log(
        &mut self,
        prefix: &str,
        copied: &mut Copied,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), StoreError> {
        let head_key = format!("{prefix}head");
        let head = found(self.from.get(&head_key, Piece::Whole).await)?;
        let start = self.same.get(prefix).cloned();
        let start = start.unwrap_or_else(|| prefix.to_owned());
        let mut listed = list(&self.from, prefix, &start).await?;
        listed.retain(|object| layout::segment_seq(&object.key).is_some());
        let contiguous = contiguous_near_the_end(&listed);
        let last = listed[..contiguous].last();
        let last = last.map(|object| object.key.clone());
        if !self.past_holes {
            listed.truncate(contiguous);
        }
        self.missing(prefix, &start, listed, copied, progress)
            .await?;
        if let Some(last) = last {
            self.same.insert(prefix.into(), last);
        }
        if let Some(head) = head.filter(|_| !self.back) {
            let there = found(self.copy.get(&head_key, Piece::Whole).await)?;
            if there.is_none_or(|there| there.bytes != head.bytes) {
                self.copy.put_replacing(&head_key, head.bytes).await?;
            }
        }
        Ok(())
    }

    /// A base backup that exists: its parts, then its manifest.
    async fn base(
        &mut self,
        backup: &str,
        copied: &mut Copied,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), StoreError> {
        let prefix = format!("{}{backup}/", layout::BASE);
        let manifest = layout::manifest(backup);
        let mut listed = list(&self.from, &prefix, &prefix).await?;
        let parts = listed.len();
        listed.retain(|object| object.key != manifest);
        if listed.len() == parts {
            return Ok(());
        }
        self.missing(&prefix, &prefix, listed, copied, progress)
            .await?;
        self.one(&manifest, copied).await?;
        self.whole.insert(backup.into());
        Ok(())
    }

    /// Copies what of `listed`, which begins with the key `start`, the copy does not have.
    async fn missing(
        &self,
        prefix: &str,
        start: &str,
        listed: Vec<Listed>,
        copied: &mut Copied,
        progress: &mut (dyn FnMut(u64) + Send),
    ) -> Result<(), StoreError> {
        let there = list(&self.copy, prefix, start).await?;
        let there: BTreeSet<String> = there.into_iter().map(|object| object.key).collect();
        let there = &there;
        // What is there counts as well: however often passes break off at one object, no more than PARALLEL get past it.
        let copy = |object: Listed| async move {
            if there.contains(&object.key) {
                return Ok(None);
            }
            self.copy_object(object.key).await.map(Some)
        };
        let mut copies = iter(listed.into_iter().map(copy)).buffered(PARALLEL);
        while let Some(copied_one) = copies.try_next().await? {
            let Some(bytes) = copied_one else { continue };
            match bytes {
                Some(bytes) => {
                    copied.objects += 1;
                    copied.bytes += bytes;
                    progress(bytes);
                }
                None => copied.damaged += 1,
            }
        }
        Ok(())
    }

    /// One object that may be in the copy already.
    async fn one(&self, key: &str, copied: &mut Copied) -> Result<(), StoreError> {
        if is_hint(key) || found(self.copy.get(key, Piece::Range(0..1)).await)?.is_none() {
            match self.copy_object(key.to_owned()).await? {
                Some(bytes) => {
                    (copied.objects, copied.bytes) = (copied.objects + 1, copied.bytes + bytes)
                }
                None => copied.damaged += 1,
            }
        }
        Ok(())
    }

    /// Copies one object, whichever it is; its bytes, or `None` where it is damaged.
    async fn copy_object(&self, key: String) -> Result<Option<u64>, StoreError> {
        let bytes = self.from.get(&key, Piece::Whole).await?.bytes;
        if is_hint(&key) {
            self.copy.put_replacing(&key, bytes).await?;
            return Ok(Some(0));
        }
        if !is_intact(&key, &bytes) {
            tracing::error!(key, "it is damaged, and not copied");
            return Ok(None);
        }
        put_same(&*self.copy, &key, &bytes).await?;
        Ok(Some(bytes.len() as u64))
    }
}

/// How a copy that follows is doing.
#[derive(Clone, Debug, Default)]
pub struct CopyState {
    /// Objects that wait to be copied; none while everything is being compared.
    pub behind: Option<u64>,
    /// Since when it fails, and why.
    pub failing: Option<(Instant, String)>,
}

/// Keeps the copy up to the archive until `told` ends. An error does not end it: it compares everything anew, and goes on.
pub async fn follow(mut copying: Copying, mut told: Told, state: watch::Sender<CopyState>) {
    let mut backoff = BACKOFF_FIRST;
    loop {
        state.send_modify(|state| state.behind = None);
        match round(&mut copying, &mut told, &state).await {
            Ok(ControlFlow::Break(())) => return,
            Ok(ControlFlow::Continue(())) => backoff = BACKOFF_FIRST,
            Err(error) => {
                let since = state.borrow().failing.as_ref().map(|(since, _)| *since);
                if since.is_none() {
                    tracing::warn!(%error, "a copy cannot be kept up; trying again");
                }
                let failing = Some((since.unwrap_or_else(Instant::now), error.to_string()));
                state.send_modify(|state| state.failing = failing);
                tokio::time::sleep(backoff).await;
                backoff = (backoff * 2).min(BACKOFF_MAX);
            }
        }
    }
}

/// Compares everything, then follows until it is time to compare again.
async fn round(
    copying: &mut Copying,
    told: &mut Told,
    state: &watch::Sender<CopyState>,
) -> Result<ControlFlow<()>, StoreError> {
    // What is told before the comparison begins is seen by it.
    told.forget();
    copying.run(&mut |_| ()).await?;
    if state.send_replace(CopyState::default()).failing.is_some() {
        tracing::info!("the copy is kept up again");
    }
    let next_pass = tokio::time::Instant::now() + PASS_EVERY;
    let mut copied = Copied::default();
    loop {
        let behind = Some(told.waiting() as u64);
        state.send_if_modified(|state| std::mem::replace(&mut state.behind, behind) != behind);
        tokio::select! {
            key = told.next() => match key {
                Some(key) => copying.one(&key, &mut copied).await?,
                None => return Ok(ControlFlow::Break(())),
            },
            () = tokio::time::sleep_until(next_pass) => return Ok(ControlFlow::Continue(())),
        }
        if told.missed() {
            return Ok(ControlFlow::Continue(()));
        }
    }
}

async fn list(store: &SharedStore, prefix: &str, start: &str) -> Result<Vec<Listed>, StoreError> {
    store
        .list(prefix, start..format!("{prefix}{LAST}").as_str())
        .await
}

/// How many of a listing come before the first number that is missing near its end: the put of that one may be under way.
fn contiguous_near_the_end(listed: &[Listed]) -> usize {
    let seqs: Vec<u64> = listed
        .iter()
        .filter_map(|object| layout::segment_seq(&object.key))
        .collect();
    let near = seqs
        .last()
        .map_or(0, |last| last.saturating_sub(IN_FLIGHT_MAX));
    let hole = seqs
        .windows(2)
        .position(|pair| pair[1] > near && pair[1] != pair[0] + 1);
    hole.map_or(listed.len(), |hole| hole + 1)
}

/// What is replaced from time to time.
fn is_hint(key: &str) -> bool {
    key.starts_with(layout::LOG) && key.ends_with("/head")
}

/// False if a sealed object is not what was sealed. Tells damage, not forgery.
pub(crate) fn is_intact(key: &str, bytes: &[u8]) -> bool {
    if !layout::is_sealed(key) {
        return true;
    }
    let Some((body, trailer)) = bytes
        .len()
        .checked_sub(TRAILER_BYTES)
        .map(|at| bytes.split_at(at))
    else {
        return false;
    };
    blake3::hash(body).as_bytes()[..] == trailer[..32]
}

#[cfg(test)]
mod tests;
