//! The same with whole records whose checksums are right: what is decoded of them is any bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::{Lsn, TimelineId, WalEvent, WalReader, WalSummary};

const START: u64 = 0x300_0000;
const PAGE: u64 = 8192;
const MAGICS: [u16; 4] = [0xD110, 0xD113, 0xD116, 0xD118];

/// Lays records out in pages as PostgreSQL does.
struct Log {
    magic: u16,
    bytes: Vec<u8>,
    previous: u64,
}

impl Log {
    fn position(&self) -> u64 {
        START + self.bytes.len() as u64
    }

    fn page(&mut self, left: usize) {
        let (at, long) = (self.position(), self.bytes.is_empty());
        let flags = u16::from(left > 0) | if long { 2 } else { 0 };
        self.bytes.extend(self.magic.to_le_bytes());
        self.bytes.extend(flags.to_le_bytes());
        self.bytes.extend(1_u32.to_le_bytes());
        self.bytes.extend(at.to_le_bytes());
        self.bytes.extend((left as u32).to_le_bytes());
        self.bytes.extend([0; 4]);
        if long {
            self.bytes.extend(7_u64.to_le_bytes());
            self.bytes.extend((1_u32 << 20).to_le_bytes());
            self.bytes.extend((PAGE as u32).to_le_bytes());
        }
    }

    fn record(&mut self, xid: u32, info: u8, manager: u8, body: &[u8]) {
        if self.position() % PAGE == 0 {
            self.page(0);
        }
        let start = self.position();
        let mut record = ((24 + body.len()) as u32).to_le_bytes().to_vec();
        record.extend(xid.to_le_bytes());
        record.extend(self.previous.to_le_bytes());
        record.extend([info, manager, 0, 0]);
        let checksum = crc32c::crc32c_append(crc32c::crc32c(body), &record);
        record.extend(checksum.to_le_bytes());
        record.extend(body);
        let mut rest = record.as_slice();
        while !rest.is_empty() {
            if self.position() % PAGE == 0 {
                self.page(rest.len());
            }
            let room = (PAGE - self.position() % PAGE) as usize;
            let (now, later) = rest.split_at(room.min(rest.len()));
            self.bytes.extend(now);
            rest = later;
        }
        self.bytes.resize(self.bytes.len().next_multiple_of(8), 0);
        self.previous = start;
    }
}

fuzz_target!(|input: (u8, Vec<(u32, u8, u8, Vec<u8>)>)| {
    let (magic, records) = input;
    let magic = MAGICS[usize::from(magic) % MAGICS.len()];
    let mut log = Log {
        magic,
        bytes: Vec::new(),
        previous: 0,
    };
    for (xid, info, manager, body) in &records {
        // Mostly the two managers whose records are decoded.
        let manager = if manager & 0x80 == 0 {
            manager & 1
        } else {
            *manager
        };
        log.record(*xid, *info, manager, body);
    }
    let mut reader =
        WalReader::new(Lsn(START), TimelineId(1), None, 1 << 20).expect("a segment size");
    let mut summary = WalSummary::default();
    let mut sink = |event: WalEvent| summary.observe(&event);
    reader.feed(Lsn(START), &log.bytes, &mut sink);
    assert_eq!(
        WalSummary::decode(&summary.encode()).expect("ours"),
        summary
    );
});
