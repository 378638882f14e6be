//! Reading the position back: where a stream ends in the store, and which holes a crash left near the end.

use futures_util::future::try_join_all;

use super::{IN_FLIGHT_MAX, Writer};
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{Header, Id, Kind, StreamName};
use crate::reader::{End, LogReader};
use crate::store::StoreError;

/// A segment that is in the store.
#[derive(Clone, Debug)]
pub(super) struct Present {
    pub(super) header: Header,
    pub(super) hash: [u8; 32],
}

/// What a writer has to do next in a stream, in order of numbers.
#[derive(Clone, Debug)]
pub(super) enum Slot {
    /// A hole: write exactly these positions under this number.
    Fill { seq: u64, start: u64, end: u64 },
    /// The segment is there; its positions arrive again and are passed over.
    Pass(Box<Present>),
}

/// Where a stream stands in the store.
#[derive(Debug)]
pub struct Resume {
    pub(super) last_contiguous: Option<Present>,
    pub(super) slots: Vec<Slot>,
    pub(super) next_seq: u64,
}

impl Resume {
    /// The contiguous durable end: what may be acknowledged, and where the source has to go on. `None`: nothing is there.
    #[must_use]
    pub fn durable(&self) -> Option<u64> {
        self.last_contiguous
            .as_ref()
            .map(|present| present.header.end)
    }

    /// First position of the run that ends at [`Self::durable`].
    #[must_use]
    pub fn run_start(&self) -> Option<u64> {
        self.last_contiguous
            .as_ref()
            .map(|present| present.header.run_start)
    }

    /// Numbers that a crash left missing; they are filled first.
    #[must_use]
    pub fn holes(&self) -> usize {
        self.slots
            .iter()
            .filter(|slot| matches!(slot, Slot::Fill { .. }))
            .count()
    }
}

/// Reads the position of `stream` back from the store. What it returns is durable.
///
/// # Errors
/// [`ArchiveError::TailMissing`] if the store lost segments that the last known head names, unless `accept_lost_tail`.
pub async fn resume(
    writer: &Writer,
    stream: &StreamName,
    accept_lost_tail: bool,
) -> Result<Resume, ArchiveError> {
    let archive = writer.archive();
    archive.store().settle(&layout::stream(stream)).await?;
    let reader = LogReader::new(archive.clone(), stream.clone());
    let end = reader.end().await?;
    if !accept_lost_tail {
        end.check_tail(stream)?;
    }
    let near = near_end(writer, stream, &end).await?;
    let hole = near.iter().position(|(_, present)| present.is_none());
    let contiguous = near[..hole.unwrap_or(near.len())].last();
    let last_contiguous = contiguous.and_then(|(_, present)| present.clone());
    let slots = match hole {
        Some(hole) => fill_slots(stream, last_contiguous.as_ref(), &near[hole..])?,
        None => Vec::new(),
    };
    Ok(Resume {
        last_contiguous,
        slots,
        next_seq: end.last.map_or(0, |last| last + 1),
    })
}

/// The segments among which holes may be, whole and verified: the window of what can be in flight, and the one before it.
async fn near_end(
    writer: &Writer,
    stream: &StreamName,
    end: &End,
) -> Result<Vec<(u64, Option<Present>)>, ArchiveError> {
    let Some(last) = end.last else {
        return Ok(Vec::new());
    };
    let reader = LogReader::new(writer.archive().clone(), stream.clone());
    let from = last.saturating_sub(IN_FLIGHT_MAX);
    let headers = try_join_all((from..=last).map(|seq| reader.header(seq))).await?;
    let hole = headers.iter().position(Option::is_none);
    let needed = from
        + hole
            .map_or(headers.len() as u64, |hole| hole as u64)
            .saturating_sub(1);
    let mut near = Vec::new();
    for (seq, header) in (from..).zip(headers) {
        let present = match header {
            Some(header) if seq >= needed => Some(Present {
                header,
                hash: verify(writer, stream, seq).await?,
            }),
            Some(_) => continue,
            None => None,
        };
        near.push((seq, present));
    }
    Ok(near)
}

async fn verify(writer: &Writer, stream: &StreamName, seq: u64) -> Result<[u8; 32], ArchiveError> {
    let archive = writer.archive();
    let key = layout::segment(stream, seq);
    let expected = archive.expected(Kind::Segment, Some(stream), Id::default(), seq);
    match archive.object(&key, &expected).await {
        Ok(object) => Ok(object.verify()?),
        Err(ArchiveError::Store(StoreError::NotFound { .. })) => Err(ArchiveError::Unreadable {
            key,
            reason: "it was there a moment ago and is gone: somebody deletes while we start".into(),
        }),
        Err(error) => Err(error),
    }
}

/// From the first hole on: what to fill and what to pass over.
fn fill_slots(
    stream: &StreamName,
    before: Option<&Present>,
    near: &[(u64, Option<Present>)],
) -> Result<Vec<Slot>, ArchiveError> {
    let mut slots = Vec::new();
    let mut start = match before {
        Some(present) => Some(present.header.end),
        // The very first segment is missing: it began where the run begins, which every later header says.
        None => near
            .iter()
            .find_map(|(_, present)| present.as_ref())
            .map(|present| present.header.run_start),
    };
    let mut missing = Vec::new();
    for (seq, present) in near {
        let Some(present) = present else {
            missing.push(*seq);
            continue;
        };
        let from = start.unwrap_or(present.header.start);
        let bytes = present.header.start.saturating_sub(from);
        let count = missing.len() as u64;
        if present.header.start < from || bytes < count || (count == 0 && bytes != 0) {
            return Err(ArchiveError::Hole {
                stream: stream.to_string(),
                seq: *seq,
                start: from,
            });
        }
        // Several numbers in a row: nobody knows where they were cut, so they share the positions evenly.
        for (index, &seq) in missing.iter().enumerate() {
            let cut = |part: u64| {
                from + (u128::from(bytes) * u128::from(part) / u128::from(count)) as u64
            };
            slots.push(Slot::Fill {
                seq,
                start: cut(index as u64),
                end: cut(index as u64 + 1),
            });
        }
        missing.clear();
        start = Some(present.header.end);
        slots.push(Slot::Pass(Box::new(present.clone())));
    }
    Ok(slots)
}
