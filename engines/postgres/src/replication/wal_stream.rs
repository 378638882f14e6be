//! START_REPLICATION … PHYSICAL: WAL in, status out, and the end of a timeline.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use bytes::{BufMut, BytesMut};
use postgres_protocol::message::frontend;

use super::client::{ANSWER_TIMEOUT, ReplicationClient, Row, SEND_TIMEOUT};
use super::decode::{
    Frame, POSTGRES_EPOCH, WalMessage, parse_data_row, parse_row_description, parse_wal_message,
};
use super::error::ReplicationError;
use super::grammar::quote_identifier;
use crate::{Lsn, TimelineId};

/// What the server answers to a request for WAL.
#[derive(Debug)]
pub enum Start {
    /// WAL follows.
    Streaming(WalStream),
    /// `start` is the very end of an old timeline: there is nothing to send on it.
    TimelineEnded {
        /// The connection, ready for the next question.
        client: ReplicationClient,
        /// The timeline that follows.
        next: TimelineId,
        /// Where it branches off.
        switch: Lsn,
    },
}

/// How far we are. `applied ≤ flushed ≤ written`; only what is durable may count as flushed.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Received up to here; what `synchronous_commit = remote_write` waits for.
    pub written: Lsn,
    /// Durable up to here: the server may forget it, and COMMIT may return.
    pub flushed: Lsn,
    /// For `remote_apply`; never past `flushed`.
    pub applied: Lsn,
    /// Ask the server for a keepalive at once.
    pub reply: bool,
}

/// A running WAL stream. Dropping it ends the connection.
#[derive(Debug)]
pub struct WalStream {
    client: ReplicationClient,
    ended: bool,
}

impl ReplicationClient {
    /// Asks for WAL of `timeline` from `start` on, by way of `slot` if there is one.
    ///
    /// # Errors
    /// `SlotMissing`, `SlotActive`, `Server` (`timeline` is not in the server's history), or a lost connection. That the WAL at
    /// `start` is gone or not there yet is often said only after the stream has begun: see [`WalStream::next`].
    pub async fn start_physical(
        mut self,
        slot: Option<&str>,
        start: Lsn,
        timeline: TimelineId,
    ) -> Result<Start, ReplicationError> {
        let slot = slot.map_or(String::new(), |s| format!("SLOT {} ", quote_identifier(s)));
        let command = format!("START_REPLICATION {slot}PHYSICAL {start} TIMELINE {timeline}");
        self.send_query(&command).await?;
        let first = self.answer().await.map_err(ReplicationError::about_wal)?;
        match first.tag {
            b'W' => Ok(Start::Streaming(WalStream {
                client: self,
                ended: false,
            })),
            b'T' => match self.end_of_timeline(Some(first)).await? {
                Some((next, switch)) => Ok(Start::TimelineEnded {
                    client: self,
                    next,
                    switch,
                }),
                None => Err(ReplicationError::Protocol(
                    "no WAL and no next timeline".into(),
                )),
            },
            tag => Err(ReplicationError::unexpected(
                tag,
                "in answer to START_REPLICATION",
            )),
        }
    }

    /// Reads up to ReadyForQuery; on the way there may be a row that names the next timeline.
    async fn end_of_timeline(
        &mut self,
        mut first: Option<Frame>,
    ) -> Result<Option<(TimelineId, Lsn)>, ReplicationError> {
        let (mut columns, mut next) = (Vec::new(), None);
        loop {
            let Frame { tag, body } = match first.take() {
                Some(frame) => frame,
                None => self.answer().await?,
            };
            match tag {
                b'T' => columns = parse_row_description(body)?,
                b'D' => {
                    let row = Row {
                        columns: columns.clone(),
                        values: parse_data_row(body)?,
                    };
                    next = Some((
                        TimelineId(row.due("next_tli")?),
                        row.due("next_tli_startpos")?,
                    ));
                }
                b'C' | b'c' => {}
                // WAL that was on its way when we asked to stop.
                b'd' => {}
                b'Z' => return Ok(next),
                tag => {
                    return Err(ReplicationError::unexpected(
                        tag,
                        "at the end of a WAL stream",
                    ));
                }
            }
        }
    }
}

impl WalStream {
    /// The next message. Cancel safe: nothing is lost if the future is dropped.
    ///
    /// After `Ended` call [`Self::finish`]; `next` then only repeats it.
    ///
    /// # Errors
    /// A lost connection, a shut down server, an error of the server (`WalRemoved` among them), a broken protocol. The
    /// stream is unusable then.
    pub async fn next(&mut self) -> Result<WalMessage, ReplicationError> {
        if self.ended {
            return Ok(WalMessage::Ended);
        }
        let message = self.client.wire.message().await;
        let Frame { tag, body } = message.map_err(ReplicationError::about_wal)?;
        match tag {
            b'd' => Ok(parse_wal_message(body)?),
            b'c' => {
                self.ended = true;
                Ok(WalMessage::Ended)
            }
            // A server that shuts down sends all of its WAL, then this instead of CopyDone.
            b'C' => Err(ReplicationError::ShuttingDown),
            tag => Err(ReplicationError::unexpected(tag, "in a WAL stream")),
        }
    }

    /// What was read has all been handed out: [`Self::next`] has to ask the operating system for more.
    #[must_use]
    pub fn is_drained(&self) -> bool {
        self.client.wire.is_drained()
    }

    /// What the server sends wakes nobody until the next call of [`Self::next`] or [`Self::send_status`].
    pub fn lay_aside(&mut self) {
        self.client.wire.lay_aside();
    }

    /// Tells the server how far we are. May be called while nobody polls [`Self::next`]. Cancel safe: the message is then sent
    /// with the next call of either.
    ///
    /// # Errors
    /// The server took no bytes for half a minute. A lost connection is left for [`Self::next`] to report, which may find the
    /// server's reason for it.
    pub async fn send_status(&mut self, status: Status) -> Result<(), ReplicationError> {
        debug_assert!(status.applied <= status.flushed && status.flushed <= status.written);
        self.client.wire.queue(|out| {
            encode_status(status, now(), out);
            Ok(())
        })?;
        self.client.wire.send(SEND_TIMEOUT).await
    }

    /// Answers the server's end of the timeline. Returns the connection and, if the timeline has ended, the next one and where it
    /// branches off.
    ///
    /// Called before `Ended` was seen it stops the stream from our side; WAL that is still on its way is thrown away.
    ///
    /// # Errors
    /// A lost connection, or a server that does not come to an end within a minute.
    pub async fn finish(
        self,
    ) -> Result<(ReplicationClient, Option<(TimelineId, Lsn)>), ReplicationError> {
        let mut client = self.client;
        client.wire.queue(|out| {
            frontend::copy_done(out);
            Ok(())
        })?;
        client.wire.send(SEND_TIMEOUT).await?;
        let end = tokio::time::timeout(ANSWER_TIMEOUT, client.end_of_timeline(None));
        match end.await {
            Ok(next) => next.map(|next| (client, next)),
            Err(_) => Err(ReplicationError::TimedOut {
                what: "end the stream",
                after: ANSWER_TIMEOUT,
            }),
        }
    }

    /// The connection, after [`Self::next`] failed because the server does not have the WAL; `None` if it is lost.
    pub async fn refused(mut self) -> Option<ReplicationClient> {
        loop {
            let frame = self.client.wire.message_within(ANSWER_TIMEOUT).await.ok()?;
            if frame.tag == b'Z' {
                return Some(self.client);
            }
        }
    }

    /// The process id of the server's walsender, as in `pg_stat_replication`.
    #[must_use]
    pub fn backend_pid(&self) -> Option<u32> {
        self.client.backend_pid()
    }
}

#[cfg(test)]
impl WalStream {
    pub(super) fn wire(&mut self) -> &mut super::wire::Wire {
        &mut self.client.wire
    }
}

/// Microseconds since PostgreSQL's epoch.
fn now() -> i64 {
    let since = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .unwrap_or(Duration::ZERO);
    i64::try_from(since.as_micros()).unwrap_or(i64::MAX) - POSTGRES_EPOCH
}

fn encode_status(status: Status, clock: i64, out: &mut BytesMut) {
    let body_bytes = 1 + 3 * 8 + 8 + 1;
    out.put_u8(b'd');
    out.put_u32(4 + body_bytes);
    out.put_u8(b'r');
    out.put_u64(status.written.0);
    out.put_u64(status.flushed.0);
    out.put_u64(status.applied.0);
    out.put_i64(clock);
    out.put_u8(status.reply.into());
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_status_update_has_the_documented_bytes() {
        let mut out = BytesMut::new();
        let status = Status {
            written: Lsn(3),
            flushed: Lsn(2),
            applied: Lsn(1),
            reply: true,
        };
        encode_status(status, -1, &mut out);
        let numbers = [3, 2, 1, u64::MAX].map(u64::to_be_bytes).concat();
        assert_eq!(out.len(), 1 + 38);
        assert_eq!(&out[..], [&b"d\0\0\0\x26r"[..], &numbers, b"\x01"].concat());
    }
}
