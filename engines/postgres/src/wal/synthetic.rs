//! A small writer of well-formed WAL for the reader's tests: what a server would have written, with any record, any
//! crash and any switch at the place a test wants it.

use super::page::{PAGE_BYTES, header_bytes};
use crate::Lsn;

pub(super) const SEGMENT_BYTES: u64 = 1 << 20;
pub(super) const SYSTEM_ID: u64 = 7_710_468_613_557_509_837;
pub(super) const COMMIT: (u8, u8) = (1, 0x00);
pub(super) const ABORT: (u8, u8) = (1, 0x20);
pub(super) const BACKUP_END: (u8, u8) = (0, 0x50);
pub(super) const RESTORE_POINT: (u8, u8) = (0, 0x70);
/// A heap insertion: of a kind that is not decoded.
pub(super) const OTHER: (u8, u8) = (10, 0x00);
const SWITCH: (u8, u8) = (0, 0x40);
const OVERWRITE: (u8, u8) = (0, 0xD0);
const MAGIC: u16 = 0xD116;

pub(super) struct SyntheticWal {
    pub(super) start: Lsn,
    pub(super) bytes: Vec<u8>,
    pub(super) timeline: u32,
    /// Start and end of every record in `bytes`, abandoned ones not.
    pub(super) records: Vec<(Lsn, Lsn)>,
    previous: u64,
}

impl SyntheticWal {
    /// A log whose first byte will lie at `start`, the start of a page.
    pub(super) fn new(start: Lsn) -> Self {
        Self {
            start,
            bytes: Vec::new(),
            timeline: 1,
            records: Vec::new(),
            previous: 0,
        }
    }

    pub(super) fn end(&self) -> Lsn {
        self.start.advance(self.bytes.len() as u64)
    }

    fn at_page(&self) -> bool {
        self.end().0.is_multiple_of(PAGE_BYTES)
    }

    fn page(&mut self, flags: u16, left: u32) {
        let page = self.end();
        let long = header_bytes(page, SEGMENT_BYTES) == 40;
        let flags = flags | if long { 2 } else { 0 };
        self.bytes.extend(MAGIC.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(self.timeline.to_le_bytes());
        self.bytes.extend(page.0.to_le_bytes());
        self.bytes.extend(left.to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(SYSTEM_ID.to_le_bytes());
            self.bytes.extend((SEGMENT_BYTES as u32).to_le_bytes());
            self.bytes.extend((PAGE_BYTES as u32).to_le_bytes());
        }
    }

    fn record_bytes(&self, kind: (u8, u8), xid: u32, main: &[u8]) -> Vec<u8> {
        let mut body = Vec::new();
        if kind == OTHER && !main.is_empty() || main.len() > 255 {
            body.push(254);
            body.extend((main.len() as u32).to_le_bytes());
        } else if !main.is_empty() {
            body.extend([255, main.len() as u8]);
        }
        body.extend(main);
        let mut record = Vec::new();
        record.extend((24 + body.len() as u32).to_le_bytes());
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([kind.1, kind.0, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(&body), &record);
        record.extend(checksum.to_le_bytes());
        record.extend(body);
        record
    }

    /// Appends a record; gives its start and end as PostgreSQL names them.
    pub(super) fn record(&mut self, kind: (u8, u8), xid: u32, main: &[u8]) -> (Lsn, Lsn) {
        if self.at_page() {
            self.page(0, 0);
        }
        let start = self.end();
        let record = self.record_bytes(kind, xid, main);
        let mut rest = &record[..];
        while !rest.is_empty() {
            if self.at_page() {
                self.page(1, rest.len() as u32);
            }
            let room = (PAGE_BYTES - self.end().0 % PAGE_BYTES) as usize;
            let (piece, after) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(piece);
            rest = after;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start.0;
        self.records.push((start, self.end()));
        (start, self.end())
    }

    pub(super) fn commit(&mut self, xid: u32, time: i64) -> (Lsn, Lsn) {
        self.record(COMMIT, xid, &pg_time(time))
    }

    pub(super) fn restore_point(&mut self, name: &str, time: i64) -> (Lsn, Lsn) {
        let mut main = pg_time(time).to_vec();
        main.extend(name.as_bytes());
        main.resize(8 + 64, 0);
        self.record(RESTORE_POINT, 0, &main)
    }

    /// Appends a switch record and the zeros up to the end of the WAL segment.
    pub(super) fn switch(&mut self) {
        let (start, end) = self.record(SWITCH, 0, &[]);
        let next = end.0.next_multiple_of(SEGMENT_BYTES);
        self.bytes.resize((next - self.start.0) as usize, 0);
        if let Some(last) = self.records.last_mut() {
            *last = (start, Lsn(next));
        }
    }

    /// Appends a record of `bytes` of which only what fits its page was written before the server crashed, then the page that a
    /// recovered server writes after it.
    pub(super) fn crash_within(&mut self, bytes: usize) {
        if self.at_page() {
            self.page(0, 0);
        }
        let record = self.record_bytes(OTHER, 9, &vec![7; bytes + PAGE_BYTES as usize]);
        let room = (PAGE_BYTES - self.end().0 % PAGE_BYTES) as usize;
        let start = self.end();
        self.bytes.extend(&record[..room]);
        self.page(8, 0);
        let overwritten = [start.0, 0].map(u64::to_le_bytes).concat();
        self.record(OVERWRITE, 0, &overwritten);
    }

    /// Appends `bytes` zeros, as in a WAL segment that was not written to its end.
    pub(super) fn zeros(&mut self, bytes: usize) {
        self.bytes.resize(self.bytes.len() + bytes, 0);
    }
}

/// Microseconds since the Unix epoch in PostgreSQL's bytes.
fn pg_time(time: i64) -> [u8; 8] {
    (time - 946_684_800_000_000).to_le_bytes()
}
