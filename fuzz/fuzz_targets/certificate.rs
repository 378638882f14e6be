//! A server's certificate, as far as channel binding and names need it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::connect::parse_certificate;

fuzz_target!(|der: &[u8]| {
    let _ = parse_certificate(der);
});
