//! Segments on their way, in order of positions: which is put next, which goes to the spool next, and how far everything is durable.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use super::IN_FLIGHT_MAX;
use super::put::Outgoing;
use crate::layout;
use crate::object::StreamName;

/// A segment that waits for longer is slow: with a spool, reading goes on without it.
const SLOW_AFTER: Duration = Duration::from_secs(3);

/// Where a segment is.
#[derive(Debug)]
enum State {
    Sealing,
    /// In memory.
    Ready(Arc<Outgoing>),
    /// In the spool alone.
    Spooled([u8; 32]),
    UnderWay(Arc<Outgoing>),
    Durable,
}

#[derive(Debug)]
struct Entry {
    seq: u64,
    end: u64,
    since: Instant,
    /// The spool has it.
    kept: bool,
    state: State,
}

/// A segment that is durable, as is everything before it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Passed {
    pub(super) seq: u64,
    pub(super) end: u64,
    /// The spool has it still.
    pub(super) kept: bool,
}

/// The segments that are not known to be durable, and those behind them. Their numbers are dense.
#[derive(Debug, Default)]
pub(super) struct Queue {
    entries: VecDeque<Entry>,
    /// Everything before this number is in the spool or durable.
    kept_to: u64,
}

impl Queue {
    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// A segment that is being sealed, or was there before.
    pub(super) fn push(&mut self, seq: u64, end: u64, durable: bool) {
        let state = if durable {
            State::Durable
        } else {
            State::Sealing
        };
        self.entries.push_back(Entry {
            seq,
            end,
            since: Instant::now(),
            kept: false,
            state,
        });
    }

    fn entry(&mut self, seq: u64) -> &mut Entry {
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq);
        &mut self.entries[at.expect("it is on its way")]
    }

    pub(super) fn sealed(&mut self, seq: u64, outgoing: Outgoing) {
        let entry = self.entry(seq);
        entry.state = State::Ready(Arc::new(outgoing));
        entry.since = Instant::now();
    }

    pub(super) fn durable(&mut self, seq: u64) {
        self.entry(seq).state = State::Durable;
    }

    /// Numbers from the first one that is not durable to the last one.
    pub(super) fn span(&self) -> u64 {
        match (self.entries.front(), self.entries.back()) {
            (Some(front), Some(back)) => back.seq + 1 - front.seq,
            _ => 0,
        }
    }

    /// The next one to be put. A number may be in flight only within [`IN_FLIGHT_MAX`] of the lowest one that is not durable.
    pub(super) fn next_to_put(&mut self, stream: &StreamName) -> Option<(u64, Arc<Outgoing>)> {
        let window = self.entries.iter_mut().take(IN_FLIGHT_MAX as usize);
        for entry in window {
            let outgoing = match &entry.state {
                State::Ready(outgoing) => Arc::clone(outgoing),
                State::Spooled(hash) => {
                    Arc::new(Outgoing::spooled(layout::segment(stream, entry.seq), *hash))
                }
                _ => continue,
            };
            entry.state = State::UnderWay(Arc::clone(&outgoing));
            return Some((entry.seq, outgoing));
        }
        None
    }

    /// True if the first one has waited for long.
    pub(super) fn is_slow(&self) -> bool {
        let front = self.entries.front();
        front.is_some_and(|front| {
            !matches!(front.state, State::Sealing) && front.since.elapsed() >= SLOW_AFTER
        })
    }

    /// True if the spool has one that the store may not have.
    pub(super) fn is_kept(&self) -> bool {
        self.entries.front().is_some_and(|front| front.kept)
    }

    /// True if the last one is sealed and neither under way nor in the spool.
    pub(super) fn last_waits(&self) -> bool {
        let last = self.entries.back();
        last.is_some_and(|last| matches!(last.state, State::Ready(_)))
    }

    /// The next one for the spool: all before it are there or durable. One that was put a moment ago is waited for.
    pub(super) fn next_to_keep(&mut self) -> Option<(u64, Arc<Outgoing>)> {
        let front = self.entries.front()?.seq;
        self.kept_to = self.kept_to.max(front);
        while let Some(entry) = self.entries.get((self.kept_to - front) as usize) {
            match &entry.state {
                _ if entry.kept => {}
                State::Durable => {}
                State::Ready(outgoing) => return Some((entry.seq, Arc::clone(outgoing))),
                State::UnderWay(outgoing) if entry.since.elapsed() >= SLOW_AFTER => {
                    return Some((entry.seq, Arc::clone(outgoing)));
                }
                _ => return None,
            }
            self.kept_to += 1;
        }
        None
    }

    /// The spool has it: its memory is free. False if it has become durable meanwhile and was passed.
    pub(super) fn kept(&mut self, seq: u64) -> bool {
        let at = self.entries.binary_search_by_key(&seq, |entry| entry.seq);
        let Ok(at) = at else {
            return false;
        };
        let entry = &mut self.entries[at];
        entry.kept = true;
        match &entry.state {
            State::Ready(outgoing) => {
                outgoing.release();
                entry.state = State::Spooled(outgoing.hash());
            }
            State::UnderWay(outgoing) => outgoing.release(),
            _ => {}
        }
        true
    }

    /// Takes the first one if it is durable.
    pub(super) fn pass(&mut self) -> Option<Passed> {
        let first = self
            .entries
            .pop_front_if(|first| matches!(first.state, State::Durable))?;
        let Entry { seq, end, kept, .. } = first;
        Some(Passed { seq, end, kept })
    }
}
