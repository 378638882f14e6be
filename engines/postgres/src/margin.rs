//! How long the server can still hold the WAL that is not archived: what its slot says while the store, or the daemon, is away.

use tokio_postgres::SimpleQueryMessage;

use crate::Lsn;
use crate::connect::{ConnInfo, ConnectError, connect_sql};
use crate::lsn::ParseError;

/// Every server has it.
const DATABASE: &str = "postgres";
const QUERY: &str = "select wal_status, safe_wal_size, \
    case when pg_is_in_recovery() then pg_last_wal_receive_lsn() else pg_current_wal_flush_lsn() end, active \
    from pg_replication_slots where slot_name = ";

/// What a slot can still take.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct SlotMargin {
    /// The server has given it up.
    pub is_lost: bool,
    /// Somebody streams from it.
    pub is_read: bool,
    /// Bytes of WAL that may be written before it is in danger of being lost; `None` where nothing but the disk limits it.
    pub safe_bytes: Option<u64>,
    /// The server's end of WAL.
    pub end: Lsn,
}

/// The server was not asked.
#[derive(Debug, thiserror::Error)]
pub enum MarginError {
    /// No session.
    #[error(transparent)]
    Connect(#[from] ConnectError),
    /// It did not answer.
    #[error("ask for the slot: {0}")]
    Query(#[from] tokio_postgres::Error),
    /// It answered with something else.
    #[error("ask for the slot: {0}")]
    Lsn(#[from] ParseError),
}

/// What the slot `name` can still take; `None` if there is no such slot. `name` is a slot's name: letters, digits and `_`.
///
/// # Errors
/// If the server does not answer.
pub async fn slot_margin(info: &ConnInfo, name: &str) -> Result<Option<SlotMargin>, MarginError> {
    let client = connect_sql(info, Some(DATABASE)).await?;
    let answer = client.simple_query(&format!("{QUERY}'{name}'")).await?;
    let row = answer.into_iter().find_map(|message| match message {
        SimpleQueryMessage::Row(row) => Some(row),
        _ => None,
    });
    let Some(row) = row else {
        return Ok(None);
    };
    let safe: Option<i64> = row.get(1).and_then(|text| text.parse().ok());
    Ok(Some(SlotMargin {
        is_lost: row.get(0) == Some("lost"),
        is_read: row.get(3) == Some("t"),
        safe_bytes: safe.map(|bytes| bytes.max(0).cast_unsigned()),
        end: row.get(2).unwrap_or("0/0").parse()?,
    }))
}
