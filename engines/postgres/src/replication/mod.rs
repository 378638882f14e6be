//! The replication protocol: socket bytes → WAL and base backup bytes, and our acknowledgements back.
//!
//! `decode` is pure and takes untrusted bytes; `wire` moves frames; `startup` authenticates; `client` asks questions;
//! `wal_stream` and `base_backup` carry the load. What comes out here goes to `crate::capture`.

mod base_backup;
mod client;
mod decode;
mod error;
mod grammar;
#[cfg(test)]
mod scripted;
mod startup;
mod wal_stream;
mod wire;

pub use base_backup::{
    BackupEnd, BackupEvent, BackupStart, BaseBackupOptions, BaseBackupStream, Checkpoint,
    Tablespace,
};
pub use client::{
    Mode, ReplicationClient, ResultSet, SlotState, SystemIdentity, TimelineHistoryFile,
};
pub use decode::{
    Authentication, BackupMessage, DecodeError, FRAME_BYTES_MAX, Frame, WalMessage, decode_any,
    parse_authentication, parse_backup_message, parse_data_row, parse_error, parse_frame,
    parse_row_description, parse_wal_message,
};
pub use error::ReplicationError;
pub use grammar::{quote_identifier, quote_literal};
pub use wal_stream::{Start, Status, WalStream};
