//! WAL page headers: every 8 KiB of WAL opens with one. They place the page in the log, tie it to its cluster, and
//! say how much of a record begun on an earlier page is left.

use super::event::DamageReason;
use super::fields::Fields;
use crate::{Lsn, TimelineId};

/// Bytes in a WAL page. PostgreSQL can be built with others; such WAL is reported as damage, never misread.
pub(crate) const PAGE_BYTES: u64 = 8192;
/// Bytes of the header of a page that opens a WAL segment.
pub(super) const LONG_HEADER_BYTES: usize = 40;
const SHORT_HEADER_BYTES: usize = 24;

const FIRST_IS_CONTRECORD: u16 = 0x0001;
const LONG_HEADER: u16 = 0x0002;
const FIRST_IS_OVERWRITE_CONTRECORD: u16 = 0x0008;
const ALL_FLAGS: u16 = 0x000F;

/// A server version, as far as the bytes of its WAL differ.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
pub(super) enum Version {
    V15,
    V16,
    V17,
    V18,
}

impl Version {
    fn of_magic(magic: u16) -> Option<Self> {
        match magic {
            0xD110 => Some(Self::V15),
            0xD113 => Some(Self::V16),
            0xD116 => Some(Self::V17),
            0xD118 => Some(Self::V18),
            _ => None,
        }
    }
}

/// How long the header of the page at `page` is.
pub(super) fn header_bytes(page: Lsn, segment_bytes: u64) -> usize {
    if page.0.is_multiple_of(segment_bytes) {
        LONG_HEADER_BYTES
    } else {
        SHORT_HEADER_BYTES
    }
}

/// Whether `page` says of itself that it lies at `at`, and, where a WAL segment begins, that it is of this cluster. What follows
/// a switch to the next WAL segment is zeros.
pub(crate) fn page_is_at(page: &[u8], at: Lsn, segment_bytes: u64, system_id: u64) -> bool {
    let u64_at = |offset: usize| {
        let field = page.get(offset..offset + 8)?.try_into().ok()?;
        Some(u64::from_le_bytes(field))
    };
    let opens_segment = at.0.is_multiple_of(segment_bytes);
    let placed = u64_at(8) == Some(at.0)
        && (!opens_segment || u64_at(SHORT_HEADER_BYTES) == Some(system_id));
    placed || (!opens_segment && page.iter().all(|&byte| byte == 0))
}

/// What a page's first record has to do with the page before.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(super) enum PageStart {
    /// A record starts right after the header.
    Record,
    /// So many bytes of a record begun earlier come first.
    Continuation(u32),
    /// The server crashed inside the record before; it never gets completed, and a new one starts here.
    Overwrite,
}

/// What all pages of one stream must agree on.
pub(super) struct PageRules {
    /// The stream's timeline: no page is on a later one.
    pub(super) timeline: TimelineId,
    /// The cluster's system identifier, once known.
    pub(super) system_id: Option<u64>,
    /// Bytes in a WAL segment.
    pub(super) segment_bytes: u64,
    /// The version of the pages seen so far.
    pub(super) version: Option<Version>,
    /// The timeline of the last page: pages never go back to an earlier one.
    pub(super) page_timeline: TimelineId,
}

impl PageRules {
    /// Reads and checks the header of the page at `page`; `bytes` has the length that [`header_bytes`] gives.
    pub(super) fn check(&mut self, page: Lsn, bytes: &[u8]) -> Result<PageStart, DamageReason> {
        let mut fields = Fields(bytes);
        let magic = fields.u16().unwrap_or_default();
        let flags = fields.u16().unwrap_or_default();
        let timeline = TimelineId(fields.u32().unwrap_or_default());
        let address = Lsn(fields.u64().unwrap_or_default());
        let remaining = fields.u32().unwrap_or_default();

        let version = Version::of_magic(magic)
            .filter(|version| self.version.is_none_or(|known| known == *version))
            .ok_or(DamageReason::PageMagic(magic))?;
        let long = flags & LONG_HEADER != 0;
        if flags & !ALL_FLAGS != 0 || long != page.0.is_multiple_of(self.segment_bytes) {
            return Err(DamageReason::PageFlags(flags));
        }
        if address != page {
            return Err(DamageReason::PageAddress(address));
        }
        if timeline > self.timeline || timeline < self.page_timeline {
            return Err(DamageReason::PageTimeline(timeline));
        }
        if long {
            fields.u32();
            self.check_cluster(&mut fields)?;
        }
        let start = match (
            flags & FIRST_IS_CONTRECORD != 0,
            flags & FIRST_IS_OVERWRITE_CONTRECORD != 0,
            remaining,
        ) {
            (true, false, 1..) => PageStart::Continuation(remaining),
            (false, true, 0) => PageStart::Overwrite,
            (false, false, 0) => PageStart::Record,
            _ => return Err(DamageReason::PageFlags(flags)),
        };
        self.version = Some(version);
        self.page_timeline = timeline;
        Ok(start)
    }

    /// After damage a page is judged on its own: the last good-looking one may have been wrong.
    pub(super) fn forget_last_page(&mut self) {
        self.version = None;
        self.page_timeline = TimelineId(1);
    }

    fn check_cluster(&mut self, fields: &mut Fields<'_>) -> Result<(), DamageReason> {
        let system_id = fields.u64().unwrap_or_default();
        let segment_bytes = fields.u32().unwrap_or_default();
        let page_bytes = fields.u32().unwrap_or_default();
        if self.system_id.is_some_and(|known| known != system_id) {
            return Err(DamageReason::SystemId(system_id));
        }
        if u64::from(segment_bytes) != self.segment_bytes {
            return Err(DamageReason::SegmentSize(segment_bytes));
        }
        if u64::from(page_bytes) != PAGE_BYTES {
            return Err(DamageReason::PageSize(page_bytes));
        }
        self.system_id = Some(system_id);
        Ok(())
    }
}
