//! What is noted about the WAL in one segment of the archive, sealed in its footer: enough to find a transaction or a restore
//! point without opening the segment.

use super::event::WalEvent;
use crate::Lsn;

const VERSION: u8 = 1;
/// More restore points, or damaged records, than this in one segment are counted as "there may be more".
const LIST_MAX: usize = 2048;
const HAS_TRANSACTIONS: u8 = 1;
const INCOMPLETE: u8 = 2;

/// A restore point.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct RestorePoint {
    /// Where its record starts.
    pub at: Lsn,
    /// Its name.
    pub name: String,
}

/// The summary of the records that end in a segment.
#[derive(Clone, PartialEq, Eq, Debug, Default)]
pub struct WalSummary {
    /// Transactions that committed.
    pub commits: u32,
    /// Lowest and highest number of a transaction that ended, as unsigned numbers: after a wraparound within the segment they
    /// span nearly all numbers, which is correct and merely not sharp.
    pub xids: Option<(u32, u32)>,
    /// Earliest and latest end of a transaction, µs since the Unix epoch.
    pub times: Option<(i64, i64)>,
    /// Restore points.
    pub restore_points: Vec<RestorePoint>,
    /// Where records lie that cannot be replayed.
    pub damage: Vec<Lsn>,
    /// The two lists are not complete: the segment itself has to be read.
    pub incomplete: bool,
}

/// Bytes that are not a summary.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[error("the summary of a segment is not one that this release reads")]
pub struct SummaryError;

impl WalSummary {
    /// Takes an event in.
    pub fn observe(&mut self, event: &WalEvent) {
        match event {
            WalEvent::Commit(end) | WalEvent::Abort(end) => {
                self.commits += u32::from(matches!(event, WalEvent::Commit(_)));
                let (low, high) = self.xids.unwrap_or((end.xid, end.xid));
                self.xids = Some((low.min(end.xid), high.max(end.xid)));
                let (first, last) = self.times.unwrap_or((end.time, end.time));
                self.times = Some((first.min(end.time), last.max(end.time)));
            }
            WalEvent::RestorePoint { .. } if self.restore_points.len() == LIST_MAX => {
                self.incomplete = true
            }
            WalEvent::RestorePoint { at, name, .. } if name.len() <= usize::from(u8::MAX) => {
                self.restore_points.push(RestorePoint {
                    at: *at,
                    name: name.clone(),
                });
            }
            WalEvent::RestorePoint { .. } => self.incomplete = true,
            WalEvent::Damage { .. } if self.damage.len() == LIST_MAX => self.incomplete = true,
            WalEvent::Damage { at, .. } => self.damage.push(*at),
            _ => {}
        }
    }

    /// False if the transaction certainly does not end here.
    #[must_use]
    pub fn may_hold_xid(&self, xid: u32) -> bool {
        self.xids
            .is_some_and(|(low, high)| (low..=high).contains(&xid))
    }

    /// False if no restore point of this name certainly stands here.
    #[must_use]
    pub fn may_hold_name(&self, name: &str) -> bool {
        self.incomplete || self.restore_points.iter().any(|point| point.name == name)
    }

    /// The bytes that are sealed: version, then fields as docs/format.md lists them, numbers big-endian.
    #[must_use]
    pub fn encode(&self) -> Vec<u8> {
        let has_transactions = if self.xids.is_some() {
            HAS_TRANSACTIONS
        } else {
            0
        };
        let incomplete = if self.incomplete { INCOMPLETE } else { 0 };
        let mut out = vec![VERSION, has_transactions | incomplete];
        let ((xid_low, xid_high), (first, last)) = (
            self.xids.unwrap_or_default(),
            self.times.unwrap_or_default(),
        );
        out.extend_from_slice(&self.commits.to_be_bytes());
        out.extend_from_slice(&xid_low.to_be_bytes());
        out.extend_from_slice(&xid_high.to_be_bytes());
        out.extend_from_slice(&first.to_be_bytes());
        out.extend_from_slice(&last.to_be_bytes());
        out.extend_from_slice(&(self.restore_points.len() as u32).to_be_bytes());
        for point in &self.restore_points {
            out.extend_from_slice(&point.at.0.to_be_bytes());
            out.push(point.name.len() as u8);
            out.extend_from_slice(point.name.as_bytes());
        }
        out.extend_from_slice(&(self.damage.len() as u32).to_be_bytes());
        for at in &self.damage {
            out.extend_from_slice(&at.0.to_be_bytes());
        }
        out
    }

    /// Reads what [`Self::encode`] wrote.
    pub fn decode(bytes: &[u8]) -> Result<Self, SummaryError> {
        let mut rest = bytes;
        let [version, flags] = take(&mut rest)?;
        if version != VERSION || flags > HAS_TRANSACTIONS | INCOMPLETE {
            return Err(SummaryError);
        }
        let commits = u32::from_be_bytes(take(&mut rest)?);
        let xids = (
            u32::from_be_bytes(take(&mut rest)?),
            u32::from_be_bytes(take(&mut rest)?),
        );
        let times = (
            i64::from_be_bytes(take(&mut rest)?),
            i64::from_be_bytes(take(&mut rest)?),
        );
        let mut restore_points = Vec::new();
        for _ in 0..u32::from_be_bytes(take(&mut rest)?) {
            let at = Lsn(u64::from_be_bytes(take(&mut rest)?));
            let [length] = take(&mut rest)?;
            let length = usize::from(length);
            let (name, after) = rest.split_at_checked(length).ok_or(SummaryError)?;
            rest = after;
            let name = std::str::from_utf8(name)
                .map_err(|_| SummaryError)?
                .to_owned();
            restore_points.push(RestorePoint { at, name });
        }
        let mut damage = Vec::new();
        for _ in 0..u32::from_be_bytes(take(&mut rest)?) {
            damage.push(Lsn(u64::from_be_bytes(take(&mut rest)?)));
        }
        let some = flags & HAS_TRANSACTIONS != 0;
        let (xids, times) = (some.then_some(xids), some.then_some(times));
        let incomplete = flags & INCOMPLETE != 0;
        let summary = Self {
            commits,
            xids,
            times,
            restore_points,
            damage,
            incomplete,
        };
        if rest.is_empty() {
            Ok(summary)
        } else {
            Err(SummaryError)
        }
    }
}

fn take<const N: usize>(rest: &mut &[u8]) -> Result<[u8; N], SummaryError> {
    let (head, tail) = rest.split_first_chunk().ok_or(SummaryError)?;
    *rest = tail;
    Ok(*head)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;
    use crate::wal::{DamageReason, TransactionEnd};

    fn ended(xid: u32, time: i64, committed: bool) -> WalEvent {
        let end = TransactionEnd {
            at: Lsn(8),
            end: Lsn(16),
            xid,
            time,
            dropped: Vec::new(),
        };
        match committed {
            true => WalEvent::Commit(end),
            false => WalEvent::Abort(end),
        }
    }

    fn point(name: &str) -> WalEvent {
        WalEvent::RestorePoint {
            at: Lsn(24),
            end: Lsn(32),
            name: name.into(),
            time: 0,
        }
    }

    /// The bytes are spelled out by hand, so that a summary sealed today is read by every later release.
    #[test]
    fn the_layout_stays_as_it_is() {
        let mut summary = WalSummary::default();
        for event in [ended(0x2BD, 5, true), ended(0x2BE, -2, false), point("é")] {
            summary.observe(&event);
        }
        summary.observe(&WalEvent::Damage {
            at: Lsn(0x102),
            reason: DamageReason::Checksum,
        });
        #[rustfmt::skip]
        let expected = [
            1, 1, 0, 0, 0, 1, 0, 0, 2, 0xBD, 0, 0, 2, 0xBE,
            255, 255, 255, 255, 255, 255, 255, 254, 0, 0, 0, 0, 0, 0, 0, 5,
            0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 0, 24, 2, 0xC3, 0xA9,
            0, 0, 0, 1, 0, 0, 0, 0, 0, 0, 1, 2,
        ];
        assert_eq!(summary.encode(), expected);
        for cut in 0..expected.len() {
            assert_eq!(WalSummary::decode(&expected[..cut]), Err(SummaryError));
        }
        let longer = [&expected[..], &[0]].concat();
        assert_eq!(WalSummary::decode(&longer), Err(SummaryError));
        assert_eq!(WalSummary::decode(&[2; 60]), Err(SummaryError));
    }

    #[test]
    fn too_many_restore_points_leave_every_name_possible() {
        let mut summary = WalSummary::default();
        summary.observe(&point("one"));
        assert!(summary.may_hold_name("one") && !summary.may_hold_name("two"));
        for _ in 0..LIST_MAX {
            summary.observe(&point("more"));
        }
        assert_eq!(summary.restore_points.len(), LIST_MAX);
        let summary = WalSummary::decode(&summary.encode()).unwrap();
        assert!(summary.may_hold_name("two"));
        let mut summary = WalSummary::default();
        summary.observe(&point(&"n".repeat(256)));
        assert!(summary.may_hold_name("two") && summary.restore_points.is_empty());
    }

    proptest! {
        #[test]
        fn nothing_that_was_seen_is_ever_denied(
            ends in proptest::collection::vec((any::<u32>(), any::<i64>(), any::<bool>()), 0..20),
            names in proptest::collection::vec("[a-zé]{0,63}", 0..5),
        ) {
            let mut summary = WalSummary::default();
            for &(xid, time, committed) in &ends {
                summary.observe(&ended(xid, time, committed));
            }
            for name in &names {
                summary.observe(&point(name));
            }
            let summary = WalSummary::decode(&summary.encode()).unwrap();
            let committed = ends.iter().filter(|end| end.2).count();
            prop_assert_eq!(summary.commits as usize, committed);
            prop_assert!(ends.iter().all(|end| summary.may_hold_xid(end.0)));
            prop_assert!(names.iter().all(|name| summary.may_hold_name(name)));
            let first = ends.iter().map(|end| end.1).min();
            let last = ends.iter().map(|end| end.1).max();
            prop_assert_eq!(summary.times, first.zip(last));
        }

        #[test]
        fn a_summary_survives_the_way_there_and_back(
            commits in any::<u32>(),
            ends in proptest::option::of((any::<(u32, u32)>(), any::<(i64, i64)>())),
            points in proptest::collection::vec((any::<u64>(), "[a-zé]{0,20}"), 0..5),
            damage in proptest::collection::vec(any::<u64>(), 0..5),
            incomplete in any::<bool>(),
        ) {
            let restore_points = points.into_iter().map(|(at, name)| RestorePoint { at: Lsn(at), name }).collect();
            let damage = damage.into_iter().map(Lsn).collect();
            let summary = WalSummary { commits, xids: ends.map(|e| e.0), times: ends.map(|e| e.1), restore_points, damage, incomplete };
            prop_assert_eq!(WalSummary::decode(&summary.encode()), Ok(summary));
        }

        #[test]
        fn any_bytes_are_a_summary_or_an_error(bytes in proptest::collection::vec(any::<u8>(), 0..200)) {
            let _ = WalSummary::decode(&bytes);
        }
    }
}
