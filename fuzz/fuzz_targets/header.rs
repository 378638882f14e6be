//! Any 256 bytes are an error, or a header that encodes to the same bytes.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_archive::object::{HEADER_BYTES, Header};

fuzz_target!(|bytes: [u8; HEADER_BYTES]| {
    if let Ok(header) = Header::decode(&bytes) {
        assert_eq!(header.encode(), bytes);
    }
});
