#![forbid(unsafe_code)]
//! `pitr-tool`, the recovery tool. One module per subcommand: its arguments, the call it makes, what it prints.
//!
//! [`cli`] is the whole command line, [`place`] finds the archive and the key it names, [`output`] and [`progress`]
//! are how anything is shown.

pub mod backup;
pub mod cli;
pub mod init;
pub mod keygen;
pub mod manual;
pub mod mongodb;
pub mod output;
pub mod place;
pub mod plan;
pub mod policy;
pub mod progress;
pub mod restore;
pub mod status;
pub mod sync;
pub mod target;
pub mod verify;
pub mod wal_fetch;
