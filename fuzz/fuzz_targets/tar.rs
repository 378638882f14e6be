//! The tar stream of a base backup, header checksums made right where asked: the same events however it is cut, and no
//! path leaves the data directory.
#![no_main]

use std::path::Component;

use libfuzzer_sys::fuzz_target;
use pitr_postgres::{TarEvent, TarReader};

fn events(bytes: &[u8], cut: usize) -> (Vec<String>, Vec<u8>, bool) {
    let (mut reader, mut seen, mut data) = (TarReader::new(), Vec::new(), Vec::new());
    let mut sink = |event: TarEvent<'_>| match event {
        TarEvent::Data(bytes) => data.extend_from_slice(bytes),
        TarEvent::Entry(entry) => {
            assert!(
                entry
                    .path
                    .components()
                    .all(|part| matches!(part, Component::Normal(_)))
            );
            seen.push(format!("{entry:?}"));
        }
        other => seen.push(format!("{other:?}")),
    };
    let fed = bytes
        .chunks(cut)
        .try_for_each(|piece| reader.feed(piece, &mut sink));
    let whole = fed.is_ok() && reader.finish().is_ok();
    (seen, data, whole)
}

fuzz_target!(|input: (bool, u8, &[u8])| {
    let (mend, cut, bytes) = input;
    let mut bytes = bytes.to_vec();
    if mend {
        for block in bytes
            .chunks_exact_mut(512)
            .filter(|block| &block[257..262] == b"ustar")
        {
            block[148..156].fill(b' ');
            let sum: u32 = block.iter().map(|byte| u32::from(*byte)).sum();
            block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
        }
    }
    let (seen, _, whole) = events(&bytes, usize::MAX);
    let (same, _, also) = events(&bytes, usize::from(cut) + 1);
    assert_eq!((seen, whole), (same, also));
});
