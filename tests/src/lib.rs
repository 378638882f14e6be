#![forbid(unsafe_code)]
//! What the tests without servers share: stores that fail on request, and a source whose bytes are known.

pub mod check;
pub mod endless;
pub mod fault_store;
pub mod known_source;
pub mod life;
pub mod memory_store;
pub mod store_contract;
pub mod takeover;
pub mod turns;
