#![forbid(unsafe_code)]
//! `pitrd`, the archiving daemon: configuration, pre-flight check, supervision. `pitr-tool` shares this library half
//! for the configuration, the log and the exit codes.

pub mod check;
pub mod cli;
pub mod config;
pub mod copies;
pub mod exit;
pub mod log;
pub mod margin;
pub mod notify;
mod observer;
pub mod open;
pub mod outage;
pub mod probe;
pub mod run;
pub mod schedule;
pub mod spool;
pub mod supervise;
pub mod vital;
pub mod watching;
