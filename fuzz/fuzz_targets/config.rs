//! The configuration file.
#![no_main]

use std::path::Path;

use libfuzzer_sys::fuzz_target;
use pitrd::config::Config;

fuzz_target!(|text: &str| {
    let _ = Config::parse(Path::new("fuzz.toml"), text);
});
