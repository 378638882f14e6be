use super::synthetic::{ABORT, BACKUP_END, COMMIT, OTHER, SEGMENT_BYTES, SYSTEM_ID, SyntheticWal};
use super::{DamageReason, RelationFile, WalEvent, WalReader};
use crate::{Lsn, TimelineId};
use proptest::prelude::*;

const TIME: i64 = 1_795_233_394_980_533;

fn reader(start: Lsn) -> WalReader {
    WalReader::new(start, TimelineId(1), Some(SYSTEM_ID), SEGMENT_BYTES).expect("valid size")
}

fn events_from(reader: &mut WalReader, at: Lsn, bytes: &[u8]) -> Vec<WalEvent> {
    let mut events = Vec::new();
    reader.feed(at, bytes, &mut |event| events.push(event));
    events
}

fn events(wal: &SyntheticWal) -> Vec<WalEvent> {
    events_from(&mut reader(wal.start), wal.start, &wal.bytes)
}

fn commits(events: &[WalEvent]) -> Vec<(Lsn, Lsn, u32)> {
    let commit = |event: &WalEvent| match event {
        WalEvent::Commit(end) => Some((end.at, end.end, end.xid)),
        _ => None,
    };
    events.iter().filter_map(commit).collect()
}

fn damages(events: &[WalEvent]) -> Vec<(Lsn, DamageReason)> {
    let damage = |event: &WalEvent| match event {
        WalEvent::Damage { at, reason } => Some((*at, *reason)),
        _ => None,
    };
    events.iter().filter_map(damage).collect()
}

/// Real WAL of three servers; the expectation was printed by their own pg_waldump.
#[test]
fn real_wal_reads_as_pg_waldump_reads_it() {
    let servers: [(u64, &[u8], &str); 3] = [
        (
            0x70_0000,
            include_bytes!("testdata/15.wal"),
            include_str!("testdata/15.txt"),
        ),
        (
            0x60_0000,
            include_bytes!("testdata/17.wal"),
            include_str!("testdata/17.txt"),
        ),
        (
            0x80_0000,
            include_bytes!("testdata/18.wal"),
            include_str!("testdata/18.txt"),
        ),
    ];
    for (start, bytes, expected) in servers {
        let start = Lsn(start);
        let mut reader = WalReader::new(start, TimelineId(1), None, SEGMENT_BYTES).expect("valid");
        let mut lines = Vec::new();
        let mut ended = None;
        for event in events_from(&mut reader, start, bytes) {
            match event {
                WalEvent::Commit(t) => {
                    lines.push(format!(
                        "commit {} {} {} {}",
                        t.at,
                        t.xid,
                        t.time,
                        t.dropped.len()
                    ));
                }
                WalEvent::Abort(t) => {
                    lines.push(format!(
                        "abort {} {} {} {}",
                        t.at,
                        t.xid,
                        t.time,
                        t.dropped.len()
                    ));
                }
                WalEvent::RestorePoint { at, name, .. } => {
                    lines.push(format!("restore {at} {name}"))
                }
                WalEvent::Checkpoint {
                    at,
                    redo,
                    timeline,
                    next_xid,
                    ..
                } => {
                    lines.push(format!("checkpoint {at} {redo} {timeline} 0:{next_xid}"));
                }
                WalEvent::End { at } => ended = Some(at),
                other => panic!("{other:?}"),
            }
        }
        assert!(ended.is_some() && ended == reader.last_record_end());
        let last = reader.last_record_start().expect("records");
        lines.push(format!("records {} last Some({last})", reader.records()));
        assert_eq!(lines, expected.lines().collect::<Vec<_>>());
    }
}

#[test]
fn a_record_over_many_pages_and_segments_is_one_record() {
    let mut wal = SyntheticWal::new(Lsn(SEGMENT_BYTES));
    let (before, _) = wal.commit(700, TIME);
    let (start, end) = wal.record(OTHER, 701, &vec![3; 2_500_000]);
    let (after, _) = wal.commit(702, TIME + 1);
    let mut reader = reader(wal.start);
    let found = events_from(&mut reader, wal.start, &wal.bytes);
    assert_eq!(before, Lsn(SEGMENT_BYTES + 40));
    assert!(end.bytes_since(start) > 2_500_000);
    assert_eq!(
        commits(&found).iter().map(|c| c.0).collect::<Vec<_>>(),
        [before, after]
    );
    assert_eq!((reader.records(), damages(&found).len()), (3, 0));
}

#[test]
fn a_long_commit_lists_every_dropped_file_and_its_prepared_xid() {
    let mut main = vec![0; 8];
    main.extend((1_u32 << 1 | 1 << 2 | 1 << 4).to_le_bytes());
    main.extend(5000_u32.to_le_bytes());
    main.resize(main.len() + 4 * 5000, 1);
    main.extend(3000_u32.to_le_bytes());
    for relation in 0..3000_u32 {
        main.extend([1663_u32, 5, relation].map(u32::to_le_bytes).concat());
    }
    main.extend(999_u32.to_le_bytes());
    let mut wal = SyntheticWal::new(Lsn(0));
    wal.record((1, 0x30 | 0x80), 0, &main);
    let found = events(&wal);
    let [WalEvent::Commit(end)] = &found[..] else {
        panic!("{found:?}");
    };
    assert_eq!(
        (end.xid, end.time, end.dropped.len()),
        (999, 946_684_800_000_000, 3000)
    );
    let last = RelationFile {
        tablespace: 1663,
        database: 5,
        relation: 2999,
    };
    assert_eq!(end.dropped.last(), Some(&last));
}

#[test]
fn after_a_switch_the_next_record_opens_the_next_segment() {
    let mut wal = SyntheticWal::new(Lsn(0));
    wal.commit(700, TIME);
    wal.switch();
    let (at, end) = wal.commit(701, TIME);
    assert_eq!(at, Lsn(SEGMENT_BYTES + 40));
    let mut reader = reader(wal.start);
    let found = events_from(&mut reader, wal.start, &wal.bytes);
    assert_eq!(commits(&found).last(), Some(&(at, end, 701)));
    assert_eq!(reader.next_record_start(Lsn(SEGMENT_BYTES)), at);
    assert_eq!(reader.next_record_start(Lsn(8192)), Lsn(8192 + 24));
    assert_eq!(reader.next_record_start(end), end);
    assert!(damages(&found).is_empty());
}

#[test]
fn a_reader_that_starts_inside_a_record_skips_it_and_says_so() {
    let mut wal = SyntheticWal::new(Lsn(0));
    wal.record(OTHER, 700, &vec![1; SEGMENT_BYTES as usize + 20_000]);
    let (at, end) = wal.commit(701, TIME);
    let from = Lsn(SEGMENT_BYTES);
    let mut reader = reader(from);
    let found = events_from(&mut reader, from, &wal.bytes[SEGMENT_BYTES as usize..]);
    assert_eq!(found[0], WalEvent::Skipped { at: from, end: at });
    assert_eq!(commits(&found), [(at, end, 701)]);
    assert_eq!((found.len(), reader.records()), (2, 1));
}

#[test]
fn a_reader_may_start_where_a_record_ends() {
    let mut wal = SyntheticWal::new(Lsn(0));
    let (_, from) = wal.commit(700, TIME);
    let (at, end) = wal.commit(701, TIME);
    let found = events_from(&mut reader(from), from, &wal.bytes[from.0 as usize..]);
    assert_eq!(commits(&found), [(at, end, 701)]);
    assert_eq!(found.len(), 1);
}

#[test]
fn a_record_abandoned_in_a_crash_is_dropped_without_alarm() {
    let mut wal = SyntheticWal::new(Lsn(0));
    wal.commit(700, TIME);
    wal.crash_within(30_000);
    let (at, end) = wal.commit(701, TIME);
    let found = events(&wal);
    assert_eq!(commits(&found)[1], (at, end, 701));
    assert_eq!(found.len(), 2);
}

#[test]
fn zeros_to_the_end_are_the_end_and_no_damage() {
    for zeros in [1, 7, 8, 24, 25, 9000, 100_000] {
        let mut wal = SyntheticWal::new(Lsn(0));
        let (_, end) = wal.commit(700, TIME);
        wal.zeros(zeros);
        let found = events(&wal);
        let expected = if zeros < 4 {
            None
        } else {
            Some(WalEvent::End { at: end })
        };
        assert_eq!(found.get(1), expected.as_ref(), "{zeros}");
        assert!(damages(&found).is_empty());
    }
}

#[test]
fn data_after_the_end_is_damage() {
    let mut wal = SyntheticWal::new(Lsn(0));
    let (_, end) = wal.commit(700, TIME);
    let mut reader = reader(wal.start);
    events_from(&mut reader, wal.start, &wal.bytes);
    let found = events_from(&mut reader, wal.end(), &[0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1]);
    let damage = WalEvent::Damage {
        at: end,
        reason: DamageReason::DataAfterEnd,
    };
    assert_eq!(found, [WalEvent::End { at: end }, damage]);
}

#[test]
fn a_hole_in_the_bytes_is_damage_and_a_repetition_is_not() {
    let mut wal = SyntheticWal::new(Lsn(0));
    for xid in 700..2000 {
        wal.commit(xid, TIME);
    }
    let mut reader = reader(wal.start);
    let mut found = events_from(&mut reader, Lsn(0), &wal.bytes[..20_000]);
    found.extend(events_from(&mut reader, Lsn(100), &wal.bytes[100..30_000]));
    assert!(damages(&found).is_empty());
    found.extend(events_from(&mut reader, Lsn(40_000), &wal.bytes[40_000..]));
    assert_eq!(damages(&found).len(), 1);
    assert_eq!(damages(&found)[0].1, DamageReason::Gap(Lsn(40_000)));
    assert_eq!(commits(&found).last().map(|c| c.2), Some(1999));
    let mut xids: Vec<u32> = commits(&found).iter().map(|c| c.2).collect();
    xids.dedup();
    assert_eq!(xids.len(), commits(&found).len());
}

#[test]
fn another_clusters_wal_is_refused_at_its_first_page() {
    let mut wal = SyntheticWal::new(Lsn(0));
    wal.timeline = 2;
    wal.commit(700, TIME);
    let read = |timeline, system_id, segment_bytes| {
        let mut reader = WalReader::new(wal.start, TimelineId(timeline), system_id, segment_bytes)
            .expect("valid size");
        damages(&events_from(&mut reader, wal.start, &wal.bytes))
    };
    assert_eq!(read(2, None, SEGMENT_BYTES), []);
    let later = DamageReason::PageTimeline(TimelineId(2));
    assert_eq!(read(1, None, SEGMENT_BYTES), [(Lsn(0), later)]);
    let other = DamageReason::SystemId(SYSTEM_ID);
    assert_eq!(read(2, Some(1), SEGMENT_BYTES), [(Lsn(0), other)]);
    let size = DamageReason::SegmentSize(SEGMENT_BYTES as u32);
    assert_eq!(read(2, None, 16 << 20), [(Lsn(0), size)]);
    assert!(WalReader::new(Lsn(0), TimelineId(1), None, 0).is_err());
    assert!(WalReader::new(Lsn(0), TimelineId(1), None, 3 << 20).is_err());
    let mut elsewhere = reader(Lsn(SEGMENT_BYTES));
    elsewhere.pages.timeline = TimelineId(2);
    let found = events_from(&mut elsewhere, Lsn(SEGMENT_BYTES), &wal.bytes);
    let address = DamageReason::PageAddress(Lsn(0));
    assert_eq!(damages(&found), [(Lsn(SEGMENT_BYTES), address)]);
}

#[derive(Debug, Clone)]
enum Step {
    Commit,
    Abort,
    RestorePoint,
    Other(usize),
    Switch,
    Crash,
}

fn step() -> impl Strategy<Value = Step> {
    prop_oneof![
        8 => Just(Step::Commit),
        2 => Just(Step::Abort),
        1 => Just(Step::RestorePoint),
        8 => (0..400_usize).prop_map(Step::Other),
        2 => (0..30_000_usize).prop_map(Step::Other),
        1 => Just(Step::Switch),
        1 => Just(Step::Crash),
    ]
}

fn wal() -> impl Strategy<Value = SyntheticWal> {
    (0..3_u64, prop::collection::vec(step(), 1..60)).prop_map(|(page, steps)| {
        let mut wal = SyntheticWal::new(Lsn(SEGMENT_BYTES - page * 8192));
        for (number, step) in steps.into_iter().enumerate() {
            let xid = 700 + number as u32;
            let time = TIME + i64::from(xid);
            match step {
                Step::Commit => drop(wal.commit(xid, time)),
                Step::Abort => drop(wal.record(ABORT, xid, &[0; 8])),
                Step::RestorePoint => drop(wal.restore_point("name", time)),
                Step::Other(bytes) => drop(wal.record(OTHER, xid, &vec![5; bytes])),
                Step::Switch => wal.switch(),
                Step::Crash => wal.crash_within(300),
            }
        }
        wal
    })
}

impl std::fmt::Debug for SyntheticWal {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{:?} {:?}", self.start, self.records)
    }
}

/// All that a reader says about bytes fed in slices of the lengths given, over and over.
fn read_in_slices(
    start: Lsn,
    bytes: &[u8],
    lengths: &[usize],
) -> (Vec<WalEvent>, u64, Option<Lsn>, Lsn) {
    let mut reader = reader(start);
    let mut events = Vec::new();
    let mut rest = bytes;
    for &length in lengths.iter().cycle() {
        let (slice, after) = rest.split_at(length.min(rest.len()));
        reader.feed(reader.position(), slice, &mut |event| events.push(event));
        rest = after;
        if rest.is_empty() {
            break;
        }
    }
    (
        events,
        reader.records(),
        reader.last_record_end(),
        reader.position(),
    )
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn well_formed_wal_is_read_whole_and_without_damage(wal in wal()) {
        let mut reader = reader(wal.start);
        let found = events_from(&mut reader, wal.start, &wal.bytes);
        prop_assert_eq!(damages(&found), []);
        prop_assert_eq!(reader.records(), wal.records.len() as u64);
        prop_assert_eq!(reader.last_record_end(), wal.records.last().map(|record| record.1));
        prop_assert_eq!(reader.last_record_start(), wal.records.last().map(|record| record.0));
    }

    #[test]
    fn slices_of_any_length_say_the_same(
        wal in wal(),
        lengths in prop::collection::vec(prop_oneof![1..40_usize, 1..20_000_usize], 1..20),
        flip in prop::option::of((any::<prop::sample::Index>(), 0..8_u8)),
    ) {
        let mut bytes = wal.bytes;
        if let Some((at, bit)) = flip {
            let at = at.index(bytes.len());
            bytes[at] ^= 1 << bit;
        }
        let whole = read_in_slices(wal.start, &bytes, &[usize::MAX]);
        prop_assert_eq!(&whole, &read_in_slices(wal.start, &bytes, &lengths));
        prop_assert_eq!(&whole, &read_in_slices(wal.start, &bytes, &[1]));
    }

    #[test]
    fn any_flipped_bit_of_a_record_is_said_once_and_reading_goes_on(
        mut wal in wal(),
        at in any::<prop::sample::Index>(),
        bit in 0..8_u8,
    ) {
        let intact = commits(&events(&wal)).len();
        let number = at.index(wal.records.len());
        let (start, end) = wal.records[number];
        let before = number.checked_sub(1).map_or(wal.start, |before| wal.records[before].1);
        let length = {
            let from = (start.0 - wal.start.0) as usize;
            u32::from_le_bytes(wal.bytes[from..from + 4].try_into().expect("four bytes"))
        };
        wal.record(OTHER, 1, &[0; 20_000]);
        let (last, last_end) = wal.commit(999_999, TIME);
        // The first page of the record holds its first bytes without a page header in between.
        let in_page = (8192 - start.0 % 8192).min(u64::from(length));
        let offset = (start.0 - wal.start.0) + at.index(in_page as usize) as u64;
        wal.bytes[offset as usize] ^= 1 << bit;
        let found = events(&wal);
        prop_assert!(end <= last);
        prop_assert_eq!(damages(&found).len(), 1, "{:?}", found);
        // If the record confirms a crash, the incomplete record before it is the one in doubt.
        prop_assert!((before..=start).contains(&damages(&found)[0].0));
        prop_assert_eq!(commits(&found).pop(), Some((last, last_end, 999_999)));
        prop_assert!(commits(&found).len() <= intact + 1);
    }

    #[test]
    fn arbitrary_bytes_never_panic(
        start in prop_oneof![any::<u64>(), Just(0), (u64::MAX - 9_000)..=u64::MAX],
        bytes in prop::collection::vec(any::<u8>(), 0..20_000),
        slice in 1..9000_usize,
    ) {
        read_in_slices(Lsn(start), &bytes, &[slice]);
    }

    #[test]
    fn damaged_wal_never_panics_nor_invents_a_commit(
        wal in wal(),
        wounds in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..50),
    ) {
        let intact = commits(&events(&wal));
        let mut bytes = wal.bytes.clone();
        for (at, byte) in wounds {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        let found = events_from(&mut reader(wal.start), wal.start, &bytes);
        prop_assert!(commits(&found).iter().all(|commit| intact.contains(commit)));
    }
}

#[test]
fn the_kinds_of_records_are_told_apart() {
    let mut wal = SyntheticWal::new(Lsn(0));
    wal.record(COMMIT, 700, &[0; 8]);
    wal.record(ABORT, 701, &[0; 8]);
    wal.restore_point("größe", TIME);
    let (backup_at, backup_end) = wal.record(BACKUP_END, 0, &[0; 8]);
    let short = wal.record(COMMIT, 702, &[0; 7]).0;
    wal.record(COMMIT, 703, &[0; 8]);
    let found = events(&wal);
    assert!(matches!(found[0], WalEvent::Commit(_)) && matches!(found[1], WalEvent::Abort(_)));
    let point =
        matches!(&found[2], WalEvent::RestorePoint { name, time: TIME, .. } if name == "größe");
    assert!(point);
    let (at, end) = (backup_at, backup_end);
    assert_eq!(found[3], WalEvent::BackupEnd { at, end });
    assert_eq!(damages(&found), [(short, DamageReason::Contents)]);
    assert_eq!(commits(&found).len(), 2);
}
