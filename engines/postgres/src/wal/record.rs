//! WAL records: their 24-byte header, and the few kinds that are decoded: ends of transactions, restore points,
//! checkpoints, ends of recovery. All others pass with their checksum verified and their contents unread.

use super::event::{DamageReason, RelationFile, TransactionEnd, WalEvent};
use super::fields::Fields;
use super::page::Version;
use crate::{Lsn, TimelineId};

/// Bytes of a record's header.
pub(super) const HEADER_BYTES: usize = 24;
/// Header bytes that the checksum covers: all but the checksum.
pub(super) const CHECKED_HEADER_BYTES: usize = 20;
/// No record is longer: PostgreSQL allocates at most this much for one.
const RECORD_BYTES_MAX: u32 = 0x3FFF_FFFF;

const RM_XLOG: u8 = 0;
const RM_XACT: u8 = 1;
const RM_BUILT_IN_MAX: u8 = 21;
const RM_CUSTOM_MIN: u8 = 128;

const XLOG_CHECKPOINT_SHUTDOWN: u8 = 0x00;
const XLOG_CHECKPOINT_ONLINE: u8 = 0x10;
const XLOG_SWITCH: u8 = 0x40;
const XLOG_BACKUP_END: u8 = 0x50;
const XLOG_RESTORE_POINT: u8 = 0x70;
const XLOG_END_OF_RECOVERY: u8 = 0x90;
const XLOG_OVERWRITE_CONTRECORD: u8 = 0xD0;
const XLOG_KIND: u8 = 0xF0;

const XACT_COMMIT: u8 = 0x00;
const XACT_ABORT: u8 = 0x20;
const XACT_COMMIT_PREPARED: u8 = 0x30;
const XACT_ABORT_PREPARED: u8 = 0x40;
const XACT_KIND: u8 = 0x70;
const XACT_HAS_INFO: u8 = 0x80;

const HAS_DATABASE: u32 = 1 << 0;
const HAS_SUBTRANSACTIONS: u32 = 1 << 1;
const HAS_RELATION_FILES: u32 = 1 << 2;
const HAS_INVALIDATIONS: u32 = 1 << 3;
const HAS_TWO_PHASE: u32 = 1 << 4;
const HAS_DROPPED_STATISTICS: u32 = 1 << 8;

const BLOCK_ID_MAX: u8 = 32;
const BLOCK_TOPLEVEL_XID: u8 = 252;
const BLOCK_ORIGIN: u8 = 253;
const BLOCK_DATA_LONG: u8 = 254;
const BLOCK_DATA_SHORT: u8 = 255;

/// From PostgreSQL's epoch, 2000-01-01, to Unix's.
const EPOCH_MICROSECONDS: i64 = 946_684_800_000_000;

/// The fixed start of every record.
#[derive(Clone, Copy)]
pub(super) struct RecordHeader {
    /// Bytes of the record, header included, page headers in between not.
    pub(super) length: u32,
    pub(super) xid: u32,
    /// Where the record before starts.
    pub(super) previous: Lsn,
    pub(super) info: u8,
    pub(super) manager: u8,
    pub(super) checksum: u32,
}

impl RecordHeader {
    pub(super) fn parse(bytes: &[u8; HEADER_BYTES]) -> Self {
        let [l0, l1, l2, l3, x0, x1, x2, x3, rest @ ..] = bytes;
        let [
            p0,
            p1,
            p2,
            p3,
            p4,
            p5,
            p6,
            p7,
            info,
            manager,
            _,
            _,
            c0,
            c1,
            c2,
            c3,
        ] = rest;
        Self {
            length: u32::from_le_bytes([*l0, *l1, *l2, *l3]),
            xid: u32::from_le_bytes([*x0, *x1, *x2, *x3]),
            previous: Lsn(u64::from_le_bytes([*p0, *p1, *p2, *p3, *p4, *p5, *p6, *p7])),
            info: *info,
            manager: *manager,
            checksum: u32::from_le_bytes([*c0, *c1, *c2, *c3]),
        }
    }

    /// Checks what can be checked before the contents are there, as PostgreSQL does. `before` is the start of the
    /// record before, where known.
    pub(super) fn check(&self, at: Lsn, before: Option<Lsn>) -> Result<(), DamageReason> {
        check_length(self.length)?;
        if (RM_BUILT_IN_MAX + 1..RM_CUSTOM_MIN).contains(&self.manager) {
            return Err(DamageReason::ResourceManager(self.manager));
        }
        let linked = match before {
            Some(before) => self.previous == before,
            None => self.previous < at,
        };
        if linked {
            Ok(())
        } else {
            Err(DamageReason::PreviousRecord {
                expected: before.unwrap_or(at),
                found: self.previous,
            })
        }
    }

    /// Whether the rest of the segment is unused.
    pub(super) fn is_switch(&self) -> bool {
        self.manager == RM_XLOG && self.info & XLOG_KIND == XLOG_SWITCH
    }

    /// Whether this is the record that says which record a crash left incomplete.
    pub(super) fn is_overwrite(&self) -> bool {
        self.manager == RM_XLOG && self.info & XLOG_KIND == XLOG_OVERWRITE_CONTRECORD
    }

    /// Whether [`decode`] has anything to say about this kind of record.
    pub(super) fn is_decoded(&self) -> bool {
        match self.manager {
            RM_XLOG => matches!(
                self.info & XLOG_KIND,
                XLOG_CHECKPOINT_SHUTDOWN
                    | XLOG_CHECKPOINT_ONLINE
                    | XLOG_BACKUP_END
                    | XLOG_RESTORE_POINT
                    | XLOG_END_OF_RECOVERY
            ),
            RM_XACT => matches!(
                self.info & XACT_KIND,
                XACT_COMMIT | XACT_ABORT | XACT_COMMIT_PREPARED | XACT_ABORT_PREPARED
            ),
            _ => false,
        }
    }
}

pub(super) fn check_length(length: u32) -> Result<(), DamageReason> {
    if (HEADER_BYTES as u32..=RECORD_BYTES_MAX).contains(&length) {
        Ok(())
    } else {
        Err(DamageReason::RecordLength(length))
    }
}

/// The checksum of a record whose bytes after the header have the checksum `body`.
pub(super) fn checksum(body: u32, header: &[u8; HEADER_BYTES]) -> u32 {
    crc32c::crc32c_append(body, &header[..CHECKED_HEADER_BYTES])
}

/// Decodes a record of a kind that [`RecordHeader::is_decoded`] names, found at `at..end`; `body` is what follows its
/// header. `None` if it is not laid out as `version` does.
pub(super) fn decode(
    header: &RecordHeader,
    version: Option<Version>,
    (at, end): (Lsn, Lsn),
    body: &[u8],
) -> Option<WalEvent> {
    let mut fields = Fields(main_data(body)?);
    if header.manager == RM_XACT {
        return transaction_end(header, version, (at, end), fields);
    }
    Some(match header.info & XLOG_KIND {
        XLOG_RESTORE_POINT => WalEvent::RestorePoint {
            at,
            end,
            time: unix_time(fields.i64()?),
            name: String::from_utf8_lossy(fields.c_string()?).into_owned(),
        },
        XLOG_BACKUP_END => WalEvent::BackupEnd { at, end },
        XLOG_END_OF_RECOVERY => WalEvent::EndOfRecovery {
            at,
            end,
            time: unix_time(fields.i64()?),
            timeline: TimelineId(fields.u32()?),
            parent: TimelineId(fields.u32()?),
        },
        _ => checkpoint((at, end), fields)?,
    })
}

/// The start of the record that a crash left incomplete, as a record that [`RecordHeader::is_overwrite`] names says.
pub(super) fn overwritten(body: &[u8]) -> Option<Lsn> {
    Fields(main_data(body)?).u64().map(Lsn)
}

/// The record's own data, which lies behind what it says about the blocks it touches.
fn main_data(body: &[u8]) -> Option<&[u8]> {
    let mut fields = Fields(body);
    let mut before = 0_usize;
    let main = loop {
        match fields.u8()? {
            BLOCK_DATA_SHORT => break usize::from(fields.u8()?),
            BLOCK_DATA_LONG => break usize::try_from(fields.u32()?).ok()?,
            BLOCK_ORIGIN => drop(fields.u16()?),
            BLOCK_TOPLEVEL_XID => drop(fields.u32()?),
            0..=BLOCK_ID_MAX => before = before.checked_add(block_bytes(&mut fields)?)?,
            _ => return None,
        }
    };
    fields.take(before)?;
    (fields.0.len() == main).then_some(fields.0)
}

/// Reads one block's header; gives the bytes of its image and data.
fn block_bytes(fields: &mut Fields<'_>) -> Option<usize> {
    const HAS_IMAGE: u8 = 0x10;
    const SAME_RELATION: u8 = 0x80;
    const HAS_HOLE: u8 = 0x01;
    const COMPRESSED: u8 = 0x04 | 0x08 | 0x10;
    let flags = fields.u8()?;
    let mut bytes = usize::from(fields.u16()?);
    if flags & HAS_IMAGE != 0 {
        bytes += usize::from(fields.u16()?);
        fields.u16()?;
        let image = fields.u8()?;
        if image & HAS_HOLE != 0 && image & COMPRESSED != 0 {
            fields.u16()?;
        }
    }
    if flags & SAME_RELATION == 0 {
        fields.take(12)?;
    }
    fields.u32()?;
    Some(bytes)
}

fn transaction_end(
    header: &RecordHeader,
    version: Option<Version>,
    (at, end): (Lsn, Lsn),
    mut fields: Fields<'_>,
) -> Option<WalEvent> {
    let kind = header.info & XACT_KIND;
    let time = unix_time(fields.i64()?);
    let has = if header.info & XACT_HAS_INFO == 0 {
        0
    } else {
        fields.u32()?
    };
    let committed = matches!(kind, XACT_COMMIT | XACT_COMMIT_PREPARED);
    let mut dropped = Vec::new();
    if has & HAS_DATABASE != 0 {
        fields.u64()?;
    }
    if has & HAS_SUBTRANSACTIONS != 0 {
        fields.list(4)?;
    }
    if has & HAS_RELATION_FILES != 0 {
        dropped = relation_files(fields.list(12)?);
    }
    if has & HAS_DROPPED_STATISTICS != 0 {
        let wide = version.is_some_and(|version| version >= Version::V18);
        fields.list(if wide { 16 } else { 12 })?;
    }
    if committed && has & HAS_INVALIDATIONS != 0 {
        fields.list(16)?;
    }
    let prepared = matches!(kind, XACT_COMMIT_PREPARED | XACT_ABORT_PREPARED);
    let xid = match has & HAS_TWO_PHASE != 0 {
        true => fields.u32()?,
        false if prepared => return None,
        false => header.xid,
    };
    let ended = TransactionEnd {
        at,
        end,
        xid,
        time,
        dropped,
    };
    Some(if committed {
        WalEvent::Commit(ended)
    } else {
        WalEvent::Abort(ended)
    })
}

fn relation_files(list: &[u8]) -> Vec<RelationFile> {
    let (items, _) = list.as_chunks::<12>();
    let file = |item: &[u8; 12]| {
        let mut fields = Fields(item);
        Some(RelationFile {
            tablespace: fields.u32()?,
            database: fields.u32()?,
            relation: fields.u32()?,
        })
    };
    items.iter().filter_map(file).collect()
}

fn checkpoint((at, end): (Lsn, Lsn), mut fields: Fields<'_>) -> Option<WalEvent> {
    let redo = Lsn(fields.u64()?);
    let timeline = TimelineId(fields.u32()?);
    fields.take(12)?; // parent timeline, full_page_writes, wal_level (17+) and padding
    let next_xid = fields.u64()?;
    fields.take(32)?; // OID and multixact counters, oldest xid and multixact with their databases
    let seconds = fields.i64()?;
    Some(WalEvent::Checkpoint {
        at,
        end,
        redo,
        timeline,
        next_xid,
        time: seconds.saturating_mul(1_000_000),
    })
}

fn unix_time(since_2000: i64) -> i64 {
    since_2000.saturating_add(EPOCH_MICROSECONDS)
}
