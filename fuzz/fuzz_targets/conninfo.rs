//! Connection strings, as keywords and as URLs; an error never repeats a password.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::connect::ConnInfo;

fuzz_target!(|text: &str| {
    let _ = ConnInfo::parse_with(text, &|_| None);
    let secret = format!("password=canary-7f3a {text}");
    if let Err(error) = ConnInfo::parse_with(&secret, &|_| None) {
        assert!(!error.to_string().contains("canary-7f3a"));
    }
});
