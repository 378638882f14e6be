//! The record half of the WAL reader. A record that lies whole in the slice is checked in place; one that is cut, by a
//! page or by the slice, is checked as its pieces come, and its bytes are kept only if they are going to be decoded.

use super::event::{DamageReason, WalEvent};
use super::reader::{State, WalReader, aligned};
use super::record::{HEADER_BYTES, RecordHeader, check_length, checksum, decode, overwritten};
use crate::Lsn;

impl WalReader {
    /// Reads the records that lie whole in `chunk`, which is in one page; gives the bytes read. A record that is cut
    /// is opened, so that its pieces can come.
    pub(super) fn records_in(&mut self, chunk: &[u8], sink: &mut impl FnMut(WalEvent)) -> usize {
        let base = self.position;
        let mut offset = aligned(base).bytes_since(base) as usize;
        while let Some(rest) = chunk.get(offset..).filter(|rest| !rest.is_empty()) {
            let start = base.advance(offset as u64);
            let whole = rest.split_first_chunk::<HEADER_BYTES>();
            let Some((bytes, after)) = whole else {
                self.open_record(start);
                return offset;
            };
            let header = RecordHeader::parse(bytes);
            let body_bytes = (header.length as usize).wrapping_sub(HEADER_BYTES);
            let Some(body) = after.get(..body_bytes) else {
                self.open_record(start);
                return offset;
            };
            if let Err(reason) = header.check(start, self.before) {
                self.damage(start, reason, sink);
                return chunk.len();
            }
            if checksum(crc32c::crc32c(body), bytes) != header.checksum {
                self.damage(start, DamageReason::Checksum, sink);
                return chunk.len();
            }
            let end = start.advance(u64::from(header.length));
            self.complete(&header, start, end, Some(body), sink);
            offset += aligned(end).bytes_since(start) as usize;
            if self.state != State::Between {
                return (end.bytes_since(base) as usize).min(chunk.len());
            }
        }
        offset.min(chunk.len())
    }

    fn open_record(&mut self, start: Lsn) {
        self.record.start = start;
        self.record.header_read = 0;
        self.record.left = 0;
        self.record.checksum = 0;
        self.state = State::Record;
    }

    /// Reads on in the record in hand; gives the bytes read.
    pub(super) fn record_piece(&mut self, chunk: &[u8], sink: &mut impl FnMut(WalEvent)) -> usize {
        if self.record.header_read < HEADER_BYTES {
            return self.record_header_piece(chunk, sink);
        }
        let used = (self.record.left as usize).min(chunk.len());
        let piece = &chunk[..used];
        self.record.checksum = crc32c::crc32c_append(self.record.checksum, piece);
        self.record.left -= used as u32;
        if let Some(body) = &mut self.record.body {
            body.extend_from_slice(piece);
        }
        if self.record.left == 0 {
            self.close_record(self.position.advance(used as u64), sink);
        }
        used
    }

    fn record_header_piece(&mut self, chunk: &[u8], sink: &mut impl FnMut(WalEvent)) -> usize {
        let read = self.record.header_read;
        let used = (HEADER_BYTES - read).min(chunk.len());
        self.record.header[read..read + used].copy_from_slice(&chunk[..used]);
        self.record.header_read += used;
        let header = RecordHeader::parse(&self.record.header);
        if self.record.header_read < 4 {
            return used;
        }
        if header.length == 0 {
            self.end(self.record.start, false, sink);
            let read = &self.record.header[..self.record.header_read];
            if read.iter().any(|&byte| byte != 0) {
                self.damage(self.record.start, DamageReason::DataAfterEnd, sink);
            }
            return used;
        }
        if let Err(reason) = check_length(header.length) {
            self.damage(self.record.start, reason, sink);
            return used;
        }
        self.record.left = header.length - self.record.header_read as u32;
        if self.record.header_read == HEADER_BYTES {
            if let Err(reason) = header.check(self.record.start, self.before) {
                self.damage(self.record.start, reason, sink);
                return used;
            }
            self.record.body = (header.is_decoded() || header.is_overwrite()).then(Vec::new);
            if self.record.left == 0 {
                self.close_record(self.position.advance(used as u64), sink);
            }
        }
        used
    }

    fn close_record(&mut self, end: Lsn, sink: &mut impl FnMut(WalEvent)) {
        let header = RecordHeader::parse(&self.record.header);
        let start = self.record.start;
        if checksum(self.record.checksum, &self.record.header) != header.checksum {
            return self.damage(start, DamageReason::Checksum, sink);
        }
        let body = self.record.body.take();
        self.complete(&header, start, end, body.as_deref(), sink);
    }

    fn complete(
        &mut self,
        header: &RecordHeader,
        start: Lsn,
        end: Lsn,
        body: Option<&[u8]>,
        sink: &mut impl FnMut(WalEvent),
    ) {
        if let Some(abandoned) = self.abandoned {
            let said = body.filter(|_| header.is_overwrite()).and_then(overwritten);
            if said != Some(abandoned) {
                return self.damage(abandoned, DamageReason::CutOff, sink);
            }
            self.abandoned = None;
        }
        let segment = self.pages.segment_bytes;
        let mut end = aligned(end);
        self.state = State::Between;
        if header.is_switch() {
            end = Lsn(end.0.next_multiple_of(segment));
            self.state = State::Switched { until: end };
        }
        self.before = Some(start);
        self.first_record_start.get_or_insert(start);
        self.last_record_start = Some(start);
        self.last_record_end = Some(end);
        self.records += 1;
        if let Some(body) = body.filter(|_| header.is_decoded()) {
            let at = start;
            sink(
                decode(header, self.pages.version, (at, end), body).unwrap_or(WalEvent::Damage {
                    at,
                    reason: DamageReason::Contents,
                }),
            );
        }
    }
}
