//! Reading the position back: where a stream ends in the store, and which holes a crash left near the end.

use futures_util::future::try_join_all;

use super::{IN_FLIGHT_MAX, Writer};
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{Header, Id, Kind, StreamName};
use crate::reader::LogReader;
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

/// The unbroken run that a stream ends with.
#[derive(Clone, Copy, Debug)]
pub(super) struct RunStart {
    pub(super) seq: u64,
    pub(super) position: u64,
    /// The chain hash that its first segment carries.
    pub(super) previous: [u8; 32],
}

/// Where a stream stands in the store.
#[derive(Debug)]
pub struct Resume {
    /// The last run; `None` if the stream is empty.
    pub(super) run: Option<RunStart>,
    /// The last segment of the run before the first hole in it; `None` if its first one is missing.
    pub(super) last_contiguous: Option<Present>,
    /// From the first hole on.
    pub(super) slots: Vec<Slot>,
    /// The hash of the segment with the highest number, which a new run carries on.
    pub(super) tail: [u8; 32],
    pub(super) next_seq: u64,
    /// What the last head said about the source's clock, if all that it knew of is there.
    pub(super) covered: Option<i64>,
    /// Behind the durable end stand numbers that do not fit: the log goes on behind them, as a new run.
    pub(super) strays: bool,
}

impl Resume {
    /// The contiguous durable end: what may be acknowledged, and where the source has to go on. `None`: nothing is there.
    #[must_use]
    pub fn durable(&self) -> Option<u64> {
        match &self.last_contiguous {
            Some(present) => Some(present.header.end),
            None => self.run_start(),
        }
    }

    /// The header of the last segment before [`Self::durable`], against which the source's log can be compared; `None` if there is
    /// none in the last run.
    #[must_use]
    pub fn last(&self) -> Option<&Header> {
        Some(&self.last_contiguous.as_ref()?.header)
    }

    /// True if the log goes on as a new run though the source lost nothing: segments of a fenced daemon stand in the way.
    #[must_use]
    pub fn passes_strays(&self) -> bool {
        self.strays
    }

    /// The header of the segment with the highest number, which may lie behind a hole; `None` if the stream is empty.
    #[must_use]
    pub fn newest(&self) -> Option<&Header> {
        match self.slots.last() {
            Some(Slot::Pass(present)) => Some(&present.header),
            _ => self.last(),
        }
    }

    /// First position of the run that ends at [`Self::durable`].
    #[must_use]
    pub fn run_start(&self) -> Option<u64> {
        self.run.map(|run| run.position)
    }

    /// Where the last of the segments ends that lie behind a number that a crash left missing; `None` if none is missing.
    #[must_use]
    pub fn holes_end(&self) -> Option<u64> {
        self.slots.last().map(|slot| match slot {
            Slot::Fill { end, .. } => *end,
            Slot::Pass(present) => present.header.end,
        })
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

/// Reads the position of `stream` back from the store, after what the writer's spool has of it was brought there. What it returns is
/// durable.
///
/// # Errors
/// [`ArchiveError::TailMissing`] if the store lost segments that the last known head names, and [`ArchiveError::Stray`] if segments of a
/// fenced daemon stand in the way, unless `accept_break`.
pub async fn resume(
    writer: &Writer,
    stream: &StreamName,
    accept_break: bool,
) -> Result<Resume, ArchiveError> {
    loop {
        let found = read_back(writer, stream, accept_break).await?;
        // What was put may have closed a hole before what the store had already, and more goes on behind that.
        if !writer.drain(stream, &found).await? {
            return Ok(found);
        }
    }
}

async fn read_back(
    writer: &Writer,
    stream: &StreamName,
    accept_break: bool,
) -> Result<Resume, ArchiveError> {
    let archive = writer.archive();
    archive.store().settle(&layout::stream(stream)).await?;
    let reader = LogReader::new(archive.clone(), stream.clone());
    let end = reader.end().await?;
    end.check_head(stream)?;
    if !accept_break {
        end.check_tail(stream)?;
    }
    let Some(last) = end.last else {
        return Ok(Resume {
            run: None,
            last_contiguous: None,
            slots: Vec::new(),
            tail: [0; 32],
            next_seq: 0,
            covered: None,
            strays: false,
        });
    };
    let found = at_end(writer, &reader, last).await;
    let mut found = match found {
        Err(error @ ArchiveError::Stray { .. }) if accept_break => {
            tracing::error!(
                %error,
                "the log goes on behind it, as a new run: take a new base backup now"
            );
            behind_strays(writer, &reader, last).await?
        }
        found => found?,
    };
    let contiguous = found.last().map(|header| header.seq);
    let head = end.head.filter(|head| contiguous >= Some(head.seq));
    found.covered = head.and_then(|head| head.covered);
    Ok(found)
}

/// Where the stream stands whose highest number is `last`.
async fn at_end(writer: &Writer, reader: &LogReader, last: u64) -> Result<Resume, ArchiveError> {
    let stream = reader.stream();
    let near = near_end(writer, reader, last).await?;
    let hole = near.iter().position(|(_, present)| present.is_none());
    let contiguous = near[..hole.unwrap_or(near.len())].last();
    let last_contiguous = contiguous.and_then(|(_, present)| present.clone());
    let (_, Some(tail)) = near.last().expect("the last one is near the end") else {
        unreachable!("the last one is there");
    };
    let (seq, position) = (tail.header.run_seq, tail.header.run_start);
    let previous = match seq.checked_sub(1) {
        // Only a run whose first segment is missing needs it.
        Some(before) if last_contiguous.is_none() => verify(writer, stream, before).await?,
        _ => [0; 32],
    };
    let slots = match (hole, &last_contiguous) {
        (Some(hole), Some(before)) => fill_slots(stream, before.header.end, &near[hole..])?,
        (Some(_), None) => fill_slots(stream, position, &near)?,
        (None, _) => Vec::new(),
    };
    Ok(Resume {
        run: Some(RunStart {
            seq,
            position,
            previous,
        }),
        last_contiguous,
        slots,
        tail: tail.hash,
        next_seq: last + 1,
        covered: None,
        strays: false,
    })
}

/// The same where segments of a fenced daemon stand behind the durable end, up to `last`: they stay, and nothing is built upon them.
async fn behind_strays(
    writer: &Writer,
    reader: &LogReader,
    last: u64,
) -> Result<Resume, ArchiveError> {
    let Header {
        run_seq, run_start, ..
    } = reader.header_of(last).await?;
    let last_contiguous = match reader.contiguous_last(run_seq, last).await? {
        Some(header) => Some(Present {
            hash: verify(writer, reader.stream(), header.seq).await?,
            header,
        }),
        None => None,
    };
    Ok(Resume {
        run: Some(RunStart {
            seq: run_seq,
            position: run_start,
            previous: [0; 32],
        }),
        last_contiguous,
        slots: Vec::new(),
        tail: verify(writer, reader.stream(), last).await?,
        next_seq: last + 1,
        covered: None,
        strays: true,
    })
}

/// The segments among which a crash can have left holes: those that can have been in flight with the last one, and the one before
/// them. Holes of an earlier run stay: the source did not have what they lack when the next run began. Whole and verified
/// from the one before the first hole on.
async fn near_end(
    writer: &Writer,
    reader: &LogReader,
    last: u64,
) -> Result<Vec<(u64, Option<Present>)>, ArchiveError> {
    let run_seq = reader.header_of(last).await?.run_seq;
    let from = last.saturating_sub(IN_FLIGHT_MAX).max(run_seq);
    let headers = try_join_all((from..=last).map(|seq| reader.header(seq))).await?;
    let hole = headers.iter().position(Option::is_none);
    if hole == Some(0) && from > run_seq {
        // It was durable before the last one was begun.
        return Err(ArchiveError::Hole {
            stream: reader.stream().to_string(),
            seq: from,
            start: reader
                .header(from - 1)
                .await?
                .map_or(0, |header| header.end),
        });
    }
    for pair in headers.windows(2) {
        if let [Some(before), Some(header)] = pair
            && header.start != before.end
        {
            return Err(stray(reader.stream(), header, before.end));
        }
    }
    let needed = from
        + hole
            .map_or(headers.len() as u64, |hole| hole as u64)
            .saturating_sub(1);
    let mut near = Vec::new();
    for (seq, header) in (from..).zip(headers) {
        let present = match header {
            Some(header) if seq >= needed => Some(Present {
                header,
                hash: verify(writer, reader.stream(), seq).await?,
            }),
            Some(_) => continue,
            None => None,
        };
        near.push((seq, present));
    }
    Ok(near)
}

/// Two daemons: one was fenced at a number before, while this one of its puts was still under way. It was never durable for
/// anybody, and what it stands in the way of would be lost if the next segment simply went behind it.
fn stray(stream: &StreamName, header: &Header, end: u64) -> ArchiveError {
    ArchiveError::Stray {
        key: layout::segment(stream, header.seq),
        writer: header.writer_id.to_string(),
        start: header.start,
        end,
    }
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

/// From the first hole on, which begins at position `start`: what to fill and what to pass over.
fn fill_slots(
    stream: &StreamName,
    mut start: u64,
    near: &[(u64, Option<Present>)],
) -> Result<Vec<Slot>, ArchiveError> {
    let mut slots = Vec::new();
    let mut missing = Vec::new();
    for (seq, present) in near {
        let Some(present) = present else {
            missing.push(*seq);
            continue;
        };
        let from = start;
        let bytes = present.header.start.saturating_sub(from);
        let count = missing.len() as u64;
        if present.header.start < from || bytes < count || (count == 0 && bytes != 0) {
            return Err(stray(stream, &present.header, from));
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
        start = present.header.end;
        slots.push(Slot::Pass(Box::new(present.clone())));
    }
    Ok(slots)
}
