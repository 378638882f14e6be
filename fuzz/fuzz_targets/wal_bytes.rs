//! The WAL reader takes any bytes, in pieces of any length, and sees the same however they are cut.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::{Lsn, TimelineId, WalReader, WalSummary};

const START: u64 = 0x300_0000;

fn events(bytes: &[u8], start: u64, cut: usize) -> Vec<String> {
    let mut reader =
        WalReader::new(Lsn(start), TimelineId(1), None, 1 << 20).expect("a segment size");
    let (mut seen, mut summary) = (Vec::new(), WalSummary::default());
    let mut at = start;
    for piece in bytes.chunks(cut) {
        reader.feed(Lsn(at), piece, &mut |event| {
            summary.observe(&event);
            seen.push(format!("{event:?}"));
        });
        at += piece.len() as u64;
    }
    assert_eq!(reader.position(), Lsn(at));
    assert_eq!(
        WalSummary::decode(&summary.encode()).expect("ours"),
        summary
    );
    seen
}

fuzz_target!(|input: (u16, u8, &[u8])| {
    let (offset, cut, bytes) = input;
    // The start of a page, or where a record can start.
    let offset = u64::from(offset % 1024) * 8;
    let start = START + if offset < 40 { 0 } else { offset };
    let whole = events(bytes, start, usize::MAX);
    assert_eq!(whole, events(bytes, start, usize::from(cut) + 1));
});
