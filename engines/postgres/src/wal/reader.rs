//! The WAL reader: a state machine fed with contiguous bytes. This half takes them apart into page headers and what
//! lies between, and decides where reading goes on after damage; `framing` is the half that reads records.

use super::event::{DamageReason, WalEvent};
use super::page::{LONG_HEADER_BYTES, PAGE_BYTES, PageRules, PageStart, header_bytes};
use super::record::HEADER_BYTES;
use crate::{Lsn, TimelineId};

const ALIGNMENT: u64 = 8;
/// Positions stay this far below the largest number, so that no record's end overflows.
const POSITION_MAX: u64 = u64::MAX - (1 << 32);

/// A WAL segment size no server can have: it is a power of two from 1 MiB to 1 GiB.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("{0} is not a WAL segment size: it is a power of two from 1 MiB to 1 GiB")]
pub struct SegmentSizeError(pub u64);

/// Reads the WAL of one timeline.
pub struct WalReader {
    pub(super) pages: PageRules,
    pub(super) position: Lsn,
    pub(super) state: State,
    /// The page header being read; its length follows from the position.
    page_header: [u8; LONG_HEADER_BYTES],
    page_header_read: usize,
    pub(super) record: Partial,
    pub(super) before: Option<Lsn>,
    /// A record that a crash left incomplete, until the next record confirms it.
    pub(super) abandoned: Option<Lsn>,
    pub(super) first_record_start: Option<Lsn>,
    pub(super) last_record_start: Option<Lsn>,
    pub(super) last_record_end: Option<Lsn>,
    pub(super) records: u64,
}

/// What the next byte, page headers apart, belongs to.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum State {
    /// Unknown until a page header says where a record starts.
    Lost { since: Lsn, reported: bool },
    /// A record whose start was not seen; so many bytes are left of it.
    Skip { since: Lsn, left: u32 },
    /// Alignment, then the start of a record.
    Between,
    /// The record in `record`.
    Record,
    /// The unused rest of a WAL segment after a switch, up to the next WAL segment.
    Switched { until: Lsn },
    /// Zeros where a record would have started at `at`, or went on (`cut`).
    Ended { at: Lsn, cut: bool },
}

/// A record that is not there yet as a whole.
#[derive(Default)]
pub(super) struct Partial {
    pub(super) start: Lsn,
    pub(super) header: [u8; HEADER_BYTES],
    pub(super) header_read: usize,
    /// Bytes of the record still to come; known once four bytes of the header are.
    pub(super) left: u32,
    pub(super) checksum: u32,
    /// Bytes after the header, if they are decoded.
    pub(super) body: Option<Vec<u8>>,
}

impl WalReader {
    /// A reader of the WAL of `timeline` (and of its ancestors' WAL that opens its segments). `start` is the start of a
    /// page, where a WAL segment starts for choice, or else exactly a record's start or end. `system_id` is taken from
    /// the first WAL segment if it is not known.
    pub fn new(
        start: Lsn,
        timeline: TimelineId,
        system_id: Option<u64>,
        segment_bytes: u64,
    ) -> Result<Self, SegmentSizeError> {
        let valid = segment_bytes.is_power_of_two() && (1 << 20..=1 << 30).contains(&segment_bytes);
        if !valid {
            return Err(SegmentSizeError(segment_bytes));
        }
        let state = if start.0.is_multiple_of(PAGE_BYTES) {
            State::Lost {
                since: start,
                reported: false,
            }
        } else {
            State::Between
        };
        Ok(Self {
            pages: PageRules {
                timeline,
                system_id,
                segment_bytes,
                version: None,
                page_timeline: TimelineId(1),
            },
            position: start,
            state,
            page_header: [0; LONG_HEADER_BYTES],
            page_header_read: 0,
            record: Partial::default(),
            before: None,
            abandoned: None,
            first_record_start: None,
            last_record_start: None,
            last_record_end: None,
            records: 0,
        })
    }

    /// The byte that [`Self::feed`] wants next.
    #[must_use]
    pub fn position(&self) -> Lsn {
        self.position
    }

    /// How many records have been read to their end.
    #[must_use]
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Where the first complete record starts.
    #[must_use]
    pub fn first_record_start(&self) -> Option<Lsn> {
        self.first_record_start
    }

    /// Where the last complete record starts.
    #[must_use]
    pub fn last_record_start(&self) -> Option<Lsn> {
        self.last_record_start
    }

    /// Where the last complete record ends: aligned, and after a switch the start of the next WAL segment, as
    /// PostgreSQL reports ends. At most 7 bytes past [`Self::position`] otherwise.
    #[must_use]
    pub fn last_record_end(&self) -> Option<Lsn> {
        self.last_record_end
    }

    /// Where the record after one that ends at `end` starts: PostgreSQL names a record by this address, which lies
    /// behind the page header if `end` is the end of a page.
    #[must_use]
    pub fn next_record_start(&self, end: Lsn) -> Lsn {
        if end.0.is_multiple_of(PAGE_BYTES) {
            end.advance(header_bytes(end, self.pages.segment_bytes) as u64)
        } else {
            end
        }
    }

    /// Reads `bytes`, the first of which lies at `at`, and tells `sink` what it finds, in order. Bytes before
    /// [`Self::position`] are passed over; bytes after it leave a gap, which is damage.
    pub fn feed(&mut self, at: Lsn, bytes: &[u8], sink: &mut impl FnMut(WalEvent)) {
        let Some(mut bytes) = self.contiguous(at, bytes, sink) else {
            return;
        };
        while !bytes.is_empty() {
            let in_page = self.position.0 % PAGE_BYTES;
            let header =
                header_bytes(Lsn(self.position.0 - in_page), self.pages.segment_bytes) as u64;
            let (wanted, is_header) = match self.state {
                // Unused pages may have headers or none.
                State::Switched { until } if self.position < until => {
                    (until.bytes_since(self.position), false)
                }
                _ if in_page < header => (header - in_page, true),
                _ => (PAGE_BYTES - in_page, false),
            };
            let room = usize::try_from(wanted).map_or(bytes.len(), |w| w.min(bytes.len()));
            let (chunk, rest) = bytes.split_at(room);
            if is_header {
                self.page_header(in_page as usize, chunk, sink);
            } else {
                self.page_body(chunk, sink);
            }
            bytes = rest;
        }
    }

    fn contiguous<'a>(
        &mut self,
        at: Lsn,
        bytes: &'a [u8],
        sink: &mut impl FnMut(WalEvent),
    ) -> Option<&'a [u8]> {
        let end = at.0.checked_add(bytes.len() as u64)?;
        if end > POSITION_MAX {
            self.damage(self.position, DamageReason::Gap(at), sink);
            return None;
        }
        if at > self.position && !bytes.is_empty() {
            self.damage(self.incident(), DamageReason::Gap(at), sink);
            self.position = at;
            self.page_header_read = 0;
        }
        let known = usize::try_from(self.position.bytes_since(at)).ok()?;
        bytes.get(known..)
    }

    fn page_header(&mut self, in_page: usize, chunk: &[u8], sink: &mut impl FnMut(WalEvent)) {
        let read = in_page + chunk.len();
        let page = Lsn(self.position.0 - in_page as u64);
        self.position = self.position.advance(chunk.len() as u64);
        if self.page_header_read != in_page {
            // Joined in the middle of a header, whose start nobody has seen.
            self.page_header_read = 0;
            if !matches!(self.state, State::Lost { .. }) {
                self.damage(page, DamageReason::Gap(self.position), sink);
            }
            return;
        }
        let Some(target) = self.page_header.get_mut(in_page..read) else {
            return;
        };
        target.copy_from_slice(chunk);
        self.page_header_read = read;
        let whole = header_bytes(page, self.pages.segment_bytes);
        if read == whole {
            self.page_header_read = 0;
            let header = self.page_header;
            self.open_page(page, &header[..whole], sink);
        }
    }

    fn open_page(&mut self, page: Lsn, header: &[u8], sink: &mut impl FnMut(WalEvent)) {
        if header.iter().all(|&byte| byte == 0) {
            return self.zero_page(page, sink);
        }
        let start = match self.pages.check(page, header) {
            Ok(start) => start,
            Err(reason) => return self.damage(self.incident(), reason, sink),
        };
        let fits = match (self.state, start) {
            (State::Lost { .. }, _) => return self.join(start),
            (State::Record, PageStart::Continuation(found)) => found == self.record.left,
            (State::Skip { left, .. }, PageStart::Continuation(found)) => found == left,
            // The record in hand was never completed; PostgreSQL drops it here.
            (State::Record | State::Skip { .. }, PageStart::Overwrite) => {
                self.abandoned = (self.state == State::Record).then_some(self.record.start);
                self.state = State::Between;
                true
            }
            (State::Between | State::Switched { .. }, PageStart::Record | PageStart::Overwrite) => {
                self.state = State::Between;
                true
            }
            // A switch record that began before the first page seen shows as a log that ends and goes on.
            (State::Ended { cut: false, .. }, PageStart::Record)
                if self.before.is_none() && page.0.is_multiple_of(self.pages.segment_bytes) =>
            {
                self.state = State::Between;
                true
            }
            (State::Ended { .. }, _) => {
                self.damage(self.incident(), DamageReason::DataAfterEnd, sink);
                return self.join(start);
            }
            _ => false,
        };
        if !fits {
            let reason = DamageReason::Continuation {
                expected: match self.state {
                    State::Record => self.record.left,
                    State::Skip { left, .. } => left,
                    _ => 0,
                },
                found: match start {
                    PageStart::Continuation(found) => found,
                    PageStart::Record | PageStart::Overwrite => 0,
                },
            };
            self.damage(self.incident(), reason, sink);
            self.join(start);
        }
    }

    /// The server zeroes what it has not written: a page of zeros is the end of the log.
    fn zero_page(&mut self, page: Lsn, sink: &mut impl FnMut(WalEvent)) {
        match self.state {
            State::Lost { reported: true, .. } | State::Ended { .. } => {}
            State::Record => self.end(self.record.start, true, sink),
            _ => self.end(page, false, sink),
        }
    }

    /// Takes up reading at a page whose header is good.
    fn join(&mut self, start: PageStart) {
        let since = match self.state {
            State::Lost { since, .. } => since,
            _ => self.position,
        };
        self.before = None;
        self.state = match start {
            PageStart::Continuation(left) => State::Skip { since, left },
            PageStart::Record | PageStart::Overwrite => State::Between,
        };
    }

    fn page_body(&mut self, chunk: &[u8], sink: &mut impl FnMut(WalEvent)) {
        let mut rest = chunk;
        while !rest.is_empty() {
            let used = match self.state {
                State::Between => self.records_in(rest, sink),
                State::Record => self.record_piece(rest, sink),
                State::Skip { since, left } => {
                    let skipped = left.min(rest.len() as u32);
                    let left = left - skipped;
                    self.state = State::Skip { since, left };
                    if left == 0 {
                        let end = aligned(self.position.advance(u64::from(skipped)));
                        sink(WalEvent::Skipped { at: since, end });
                        self.state = State::Between;
                    }
                    skipped as usize
                }
                State::Ended { .. } => {
                    if rest.iter().any(|&byte| byte != 0) {
                        self.damage(self.incident(), DamageReason::DataAfterEnd, sink);
                    }
                    rest.len()
                }
                // In the state after a switch a chunk reaches up to the end of the WAL segment.
                State::Lost { .. } | State::Switched { .. } => rest.len(),
            };
            rest = rest.get(used..).unwrap_or_default();
            self.position = self.position.advance(used as u64);
        }
    }

    /// Where a replay would stop if the next bytes cannot be read.
    fn incident(&self) -> Lsn {
        match self.state {
            State::Record => self.record.start,
            State::Ended { at, .. } => at,
            State::Skip { since, .. } | State::Lost { since, .. } => since,
            State::Between | State::Switched { .. } => Lsn(self.position.0 & !(PAGE_BYTES - 1)),
        }
    }

    pub(super) fn end(&mut self, at: Lsn, cut: bool, sink: &mut impl FnMut(WalEvent)) {
        self.state = State::Ended { at, cut };
        sink(WalEvent::End { at });
    }

    pub(super) fn damage(
        &mut self,
        at: Lsn,
        reason: DamageReason,
        sink: &mut impl FnMut(WalEvent),
    ) {
        self.record.body = None;
        self.before = None;
        self.pages.forget_last_page();
        let at = self.abandoned.take().unwrap_or(at);
        if let State::Lost { reported: true, .. } = self.state {
            return;
        }
        self.state = State::Lost {
            since: at,
            reported: true,
        };
        sink(WalEvent::Damage { at, reason });
    }
}

pub(super) fn aligned(at: Lsn) -> Lsn {
    Lsn(at.0.next_multiple_of(ALIGNMENT))
}
