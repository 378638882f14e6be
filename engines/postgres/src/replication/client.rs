//! Questions to the server on a replication connection, one at a time, each with its whole answer.

use std::collections::BTreeMap;
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

use bytes::Bytes;
use postgres_protocol::message::frontend;

use super::decode::{Frame, parse_data_row, parse_row_description};
use super::error::ReplicationError;
use super::grammar::{quote_identifier, quote_literal};
use super::startup::{Session, log_in};
use super::wire::Wire;
use crate::connect::{ConnInfo, ConnectError, connect_first};
use crate::{Lsn, TimelineId};

/// How long the server may take over a question. Commands that wait for a checkpoint have no limit.
pub(super) const ANSWER_TIMEOUT: Duration = Duration::from_secs(60);
pub(super) const SEND_TIMEOUT: Duration = Duration::from_secs(30);
/// An answer larger than this is refused; the largest legitimate one is a timeline history.
const ANSWER_BYTES_MAX: usize = 64 << 20;

/// What kind of replication connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Mode {
    /// WAL and base backups of the whole cluster; no SQL.
    Physical,
    /// Also SQL, in this database.
    Database(String),
}

/// A replication connection that waits for a question.
///
/// Dropping it ends the connection. After an error in an answer (`Server`, `SlotActive`, `SlotMissing`, `WalRemoved`) it
/// can be used on; after any other error it cannot. A method that is cancelled leaves the connection unusable.
pub struct ReplicationClient {
    pub(super) wire: Wire,
    parameters: BTreeMap<String, String>,
    backend_pid: Option<u32>,
}

/// The rows of one statement, as text.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct ResultSet {
    /// Column names.
    pub columns: Vec<String>,
    /// Values; `None` is NULL.
    pub rows: Vec<Vec<Option<Bytes>>>,
}

/// Who the server is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SystemIdentity {
    /// The cluster's identifier, made by initdb.
    pub system_id: u64,
    /// The timeline it is on.
    pub timeline: TimelineId,
    /// The end of its flushed WAL (on a standby: received and flushed).
    pub flush_lsn: Lsn,
    /// The database of the connection, if any.
    pub dbname: Option<String>,
}

/// A replication slot as the server knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct SlotState {
    /// `physical`; this command knows no other kind.
    pub kind: String,
    /// The oldest WAL kept for it; `None` if it keeps none.
    pub restart_lsn: Option<Lsn>,
    /// The timeline of that.
    pub restart_timeline: Option<TimelineId>,
}

/// A timeline history file.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TimelineHistoryFile {
    /// Such as `00000002.history`.
    pub name: String,
    /// Its bytes as they are on the server.
    pub bytes: Bytes,
}

impl fmt::Debug for ReplicationClient {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut debug = f.debug_struct("ReplicationClient");
        debug
            .field("backend_pid", &self.backend_pid)
            .finish_non_exhaustive()
    }
}

impl ReplicationClient {
    /// Connects to the first suitable host and authenticates.
    ///
    /// # Errors
    /// [`ConnectError`]; its `is_permanent` tells whether to retry.
    pub async fn connect(info: &ConnInfo, mode: Mode) -> Result<Self, ConnectError> {
        let mode = &mode;
        let session =
            connect_first(info, |place, transport| log_in(place, transport, mode)).await?;
        let Session {
            wire,
            parameters,
            backend_pid,
        } = session;
        Ok(Self {
            wire,
            parameters,
            backend_pid,
        })
    }

    /// A setting that the server reported when the connection began, such as `server_version` or `in_hot_standby`.
    #[must_use]
    pub fn parameter(&self, name: &str) -> Option<&str> {
        self.parameters.get(name).map(String::as_str)
    }

    /// The server's major version, such as 17.
    ///
    /// # Errors
    /// The server did not say.
    pub fn server_major(&self) -> Result<u32, ReplicationError> {
        let version = self.parameter("server_version").unwrap_or_default();
        let digits = version.split(|c: char| !c.is_ascii_digit()).next();
        let major = digits.and_then(|d| d.parse().ok());
        major.ok_or_else(|| ReplicationError::Protocol("a server_version without a number".into()))
    }

    /// Whether the server was in recovery when the connection began.
    #[must_use]
    pub fn in_recovery(&self) -> bool {
        self.parameter("in_hot_standby") == Some("on")
    }

    /// Whether the connection is encrypted.
    #[must_use]
    pub fn is_encrypted(&self) -> bool {
        self.wire.transport().is_encrypted()
    }

    /// Whether the server is on this host.
    #[must_use]
    pub fn is_local(&self) -> bool {
        self.wire.transport().is_local()
    }

    /// The process id of the server process behind this connection, as in `pg_stat_replication`.
    #[must_use]
    pub fn backend_pid(&self) -> Option<u32> {
        self.backend_pid
    }

    /// Sends a command of the replication grammar, or SQL on a database connection, and collects the answer.
    ///
    /// # Errors
    /// What the server reports; no answer within a minute; an answer above 64 MiB.
    pub async fn simple_query(
        &mut self,
        command: &str,
    ) -> Result<Vec<ResultSet>, ReplicationError> {
        self.send_query(command).await?;
        let (mut sets, mut open, mut bytes) = (Vec::new(), None, 0);
        loop {
            let Frame { tag, body } = self.answer().await?;
            bytes += body.len();
            if bytes > ANSWER_BYTES_MAX {
                return Err(ReplicationError::Protocol(
                    "an answer of more than 64 MiB".into(),
                ));
            }
            match (tag, &mut open) {
                (b'T', None) => {
                    open = Some(ResultSet {
                        columns: parse_row_description(body)?,
                        rows: Vec::new(),
                    });
                }
                (b'D', Some(set)) => set.rows.push(parse_data_row(body)?),
                (b'C', _) => sets.extend(open.take()),
                (b'I', None) => {}
                (b'Z', None) => return Ok(sets),
                (tag, _) => return Err(ReplicationError::unexpected(tag, "in an answer")),
            }
        }
    }

    pub(super) async fn send_query(&mut self, command: &str) -> Result<(), ReplicationError> {
        self.wire.queue(|out| frontend::query(command, out))?;
        self.wire.send(SEND_TIMEOUT).await
    }

    /// The next message of an answer. An error in it is returned only once the server is ready for the next question.
    pub(super) async fn answer(&mut self) -> Result<Frame, ReplicationError> {
        match self.wire.message_within(ANSWER_TIMEOUT).await {
            Err(error) => Err(self.settle(error).await),
            answer => answer,
        }
    }

    /// Waits for ReadyForQuery after an error that leaves the session alive.
    pub(super) async fn settle(&mut self, error: ReplicationError) -> ReplicationError {
        let (ReplicationError::Server(said) | ReplicationError::SlotActive(said)) = &error else {
            return error;
        };
        // After FATAL the server closes the connection instead.
        if said.severity == "ERROR" {
            while let Ok(frame) = self.wire.message_within(ANSWER_TIMEOUT).await {
                if frame.tag == b'Z' {
                    break;
                }
            }
        }
        error
    }

    async fn one_row(&mut self, command: &str) -> Result<Row, ReplicationError> {
        let set = self.simple_query(command).await?.into_iter().next();
        let mut set =
            set.ok_or_else(|| ReplicationError::Protocol("an answer without rows".into()))?;
        match set.rows.len() {
            1 => Ok(Row {
                values: set.rows.remove(0),
                columns: set.columns,
            }),
            count => Err(ReplicationError::Protocol(format!(
                "{count} rows where one was due"
            ))),
        }
    }

    /// Who the server is and where its WAL ends.
    ///
    /// # Errors
    /// As for [`Self::simple_query`].
    pub async fn identify_system(&mut self) -> Result<SystemIdentity, ReplicationError> {
        let row = self.one_row("IDENTIFY_SYSTEM").await?;
        Ok(SystemIdentity {
            system_id: row.due("systemid")?,
            timeline: TimelineId(row.due("timeline")?),
            flush_lsn: row.due("xlogpos")?,
            dbname: row.get("dbname")?,
        })
    }

    /// The value of a server setting, as SHOW gives it.
    ///
    /// # Errors
    /// As for [`Self::simple_query`]; an unknown setting is `Server` with SQLSTATE 42704.
    pub async fn show(&mut self, name: &str) -> Result<String, ReplicationError> {
        let row = self
            .one_row(&format!("SHOW {}", quote_identifier(name)))
            .await?;
        let value = row.values.first().cloned().flatten().unwrap_or_default();
        Ok(String::from_utf8_lossy(&value).into_owned())
    }

    /// A physical slot, or `None` if there is no slot of this name.
    ///
    /// # Errors
    /// As for [`Self::simple_query`]; a logical slot of this name is `Server`.
    pub async fn read_replication_slot(
        &mut self,
        name: &str,
    ) -> Result<Option<SlotState>, ReplicationError> {
        let command = format!("READ_REPLICATION_SLOT {}", quote_identifier(name));
        let row = self.one_row(&command).await?;
        let Some(kind) = row.get("slot_type")? else {
            return Ok(None);
        };
        Ok(Some(SlotState {
            kind,
            restart_lsn: row.get("restart_lsn")?,
            restart_timeline: row.get("restart_tli")?.map(TimelineId),
        }))
    }

    /// Creates a physical slot; with `reserve_wal` it keeps WAL from now on, `temporary` ends with the connection.
    ///
    /// # Errors
    /// As for [`Self::simple_query`]; an existing slot is `Server` with SQLSTATE 42710.
    pub async fn create_physical_slot(
        &mut self,
        name: &str,
        reserve_wal: bool,
        temporary: bool,
    ) -> Result<(), ReplicationError> {
        let name = quote_identifier(name);
        let temporary = if temporary { "TEMPORARY " } else { "" };
        let command = format!(
            "CREATE_REPLICATION_SLOT {name} {temporary}PHYSICAL (RESERVE_WAL {reserve_wal})"
        );
        self.simple_query(&command).await.map(drop)
    }

    /// Drops a slot.
    ///
    /// # Errors
    /// `SlotMissing`, `SlotActive`, else as for [`Self::simple_query`].
    pub async fn drop_slot(&mut self, name: &str) -> Result<(), ReplicationError> {
        let command = format!("DROP_REPLICATION_SLOT {}", quote_identifier(name));
        let dropped = self.simple_query(&command).await;
        dropped.map(drop).map_err(ReplicationError::about_slot)
    }

    /// The history file of `timeline`. Timeline 1 has none.
    ///
    /// # Errors
    /// As for [`Self::simple_query`]; a file that is not there is `Server` with SQLSTATE 58P01.
    pub async fn timeline_history(
        &mut self,
        timeline: TimelineId,
    ) -> Result<TimelineHistoryFile, ReplicationError> {
        let row = self
            .one_row(&format!("TIMELINE_HISTORY {timeline}"))
            .await?;
        let mut values = row.values.into_iter().flatten();
        match (values.next(), values.next()) {
            (Some(name), Some(bytes)) => Ok(TimelineHistoryFile {
                name: String::from_utf8_lossy(&name).into_owned(),
                bytes,
            }),
            _ => Err(ReplicationError::Protocol(
                "a timeline history without a file".into(),
            )),
        }
    }

    /// Says goodbye, so that the server logs no broken connection. A failure changes nothing for anybody.
    pub async fn close(mut self) {
        let queued = self.wire.queue(|out| {
            frontend::terminate(out);
            Ok(())
        });
        if queued.is_ok() {
            let _ = self.wire.send(Duration::from_secs(1)).await;
        }
    }
}

/// One row with the names of its columns.
pub(super) struct Row {
    pub(super) columns: Vec<String>,
    pub(super) values: Vec<Option<Bytes>>,
}

impl Row {
    /// The value of a column, `None` if it is NULL or not there.
    pub(super) fn get<T: FromStr>(&self, column: &str) -> Result<Option<T>, ReplicationError> {
        let at = self.columns.iter().position(|c| c == column);
        let Some(value) = at.and_then(|at| self.values.get(at)?.as_ref()) else {
            return Ok(None);
        };
        let parsed = str::from_utf8(value)
            .ok()
            .and_then(|text| text.parse().ok());
        parsed
            .map(Some)
            .ok_or_else(|| ReplicationError::Protocol(format!("an unreadable value for {column}")))
    }

    /// The value of a column that must have one.
    pub(super) fn due<T: FromStr>(&self, column: &str) -> Result<T, ReplicationError> {
        self.get(column)?
            .ok_or_else(|| ReplicationError::Protocol(format!("no value for {column}")))
    }
}

/// A command's text argument.
pub(super) fn literal(text: &str) -> Result<String, ReplicationError> {
    match text.contains('\0') {
        true => Err(ReplicationError::Unsupported(
            "text for the server contains a zero byte".into(),
        )),
        false => Ok(quote_literal(text)),
    }
}
