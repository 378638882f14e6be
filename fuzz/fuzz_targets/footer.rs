//! Any bytes are an error, or a footer whose frames lie one behind the other and add up.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_archive::object::{FRAME_BYTES_MAX, Footer};

fuzz_target!(|input: (bool, u32, u32, &[u8])| {
    let (magic, before, plaintext_bytes, bytes) = input;
    let mut bytes = bytes.to_vec();
    if magic {
        bytes.extend_from_slice(b"PITRFOOT");
    }
    let payload_bytes = u64::from(before) + bytes.len() as u64;
    if let Ok(footer) = Footer::decode(&bytes, payload_bytes, u64::from(plaintext_bytes)) {
        let (mut plaintext, mut payload) = (0, 0);
        for frame in &footer.frames {
            assert_eq!(
                (frame.plaintext_start, frame.payload_start),
                (plaintext, payload)
            );
            assert!((1..=FRAME_BYTES_MAX).contains(&frame.plaintext_bytes));
            plaintext += frame.plaintext_bytes as u64;
            payload += frame.compressed_bytes as u64;
        }
        assert_eq!(plaintext, u64::from(plaintext_bytes));
        assert!(payload + (footer.summary.len() as u64) < payload_bytes);
    }
});
