//! What a server says over the wire.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::replication::decode_any;

fuzz_target!(|bytes: &[u8]| {
    let _ = decode_any(bytes);
});
