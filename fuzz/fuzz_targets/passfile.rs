//! Passfiles as libpq reads them: whatever stands in one, a line that matches is found, and what is found is never shown.
#![no_main]

use libfuzzer_sys::fuzz_target;
use pitr_postgres::connect::find_password;

const WANTED: [&str; 4] = ["::1", "5432", "or\\ders", "pitrd"];
const LINE: &[u8] = b"\n\\:\\:1:5432:or\\\\ders:pitrd:last\r\n";

fuzz_target!(|text: &[u8]| {
    let found = find_password(text, WANTED);
    assert!(
        found
            .as_ref()
            .is_none_or(|secret| format!("{secret:?}") == "***")
    );
    let with_last = find_password(&[text, LINE].concat(), WANTED);
    let expected = found.or_else(|| find_password(LINE, WANTED));
    assert!(with_last.is_some() && with_last == expected);
});
