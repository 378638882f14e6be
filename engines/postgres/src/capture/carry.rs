//! Going on without the store: while it is away and a spool takes what is read, a lost connection, or a slot that the server gave up,
//! is mended with the server alone. The log is written on where it was, to the byte; what is durable is not asked for.

use pitr_archive::writer::LogWriter;

use super::prove::End;
use super::stream::StreamEnd;
use super::tail::Tail;
use super::{Capture, CaptureError};
use crate::replication::{ReplicationClient, ReplicationError, Start, SystemIdentity};
use crate::{Lsn, TimelineId};

/// A log that is being written.
#[derive(Debug)]
pub(super) struct Written {
    pub(super) timeline: TimelineId,
    pub(super) log: LogWriter,
    /// The last of what was handed to it.
    pub(super) tail: Tail,
    /// Where the slot was made anew last.
    anew_at: Option<Lsn>,
}

impl Written {
    pub(super) fn new(timeline: TimelineId, log: LogWriter, tail: Tail) -> Self {
        Self {
            timeline,
            log,
            tail,
            anew_at: None,
        }
    }

    /// What was handed to the log ends here.
    pub(super) fn end(&self) -> Lsn {
        self.tail.end()
    }

    /// Waits until all of it is durable.
    pub(super) async fn finish(self) -> Result<Lsn, CaptureError> {
        Ok(Lsn(self.log.finish().await?))
    }

    /// A slot that was made anew here did not help: the server does not have the WAL.
    pub(super) fn is_cut_off(&self) -> bool {
        self.anew_at == Some(self.end())
    }
}

impl Capture {
    /// True while the spool holds what the store does not take: then nobody waits for the store.
    pub(super) fn is_spooling(&self) -> bool {
        let spool = self.writer.spool();
        spool.is_some_and(|spool| spool.fill().objects > 0)
    }

    /// Goes on where `written` ends, over a new connection.
    pub(super) async fn carry_on(
        &mut self,
        client: ReplicationClient,
        written: Written,
        identity: &SystemIdentity,
    ) -> Result<StreamEnd, CaptureError> {
        let (timeline, end) = (written.timeline, written.end());
        if identity.timeline != timeline {
            // What came before the switch is asked for on the old timeline, from where the archive ends.
            self.finish(written).await?;
            let (client, place) = self.place(client, identity).await?;
            return self.stream(client, place).await;
        }
        self.not_rolled_back(identity, timeline, end)?;
        let ours = End {
            timeline,
            end,
            first: written.tail.start(),
            proofs: written.tail.proofs(),
        };
        let mut client = match self.know_again(client, &ours, Some(identity)).await {
            Ok(client) => client,
            Err(error @ CaptureError::OtherLog { .. }) => return Err(error),
            Err(error) => {
                self.carried = Some(written);
                return Err(error);
            }
        };
        match self.ensure_slot(&mut client, Some(end)).await {
            // A server streams from an invalidated slot as well, as long as it happens to have the WAL.
            Ok(None) if !written.is_cut_off() => {
                return Ok(StreamEnd::SlotLost(Box::new(written)));
            }
            Ok(_) => {}
            Err(error) => {
                self.carried = Some(written);
                return Err(error);
            }
        }
        let slot = self.settings.slot.clone();
        match client.start_physical(Some(&slot), end, timeline).await {
            Ok(Start::Streaming(stream)) => {
                tracing::info!(%timeline, from = %end, "streaming goes on; the store is still away");
                self.follow(stream, None, written).await
            }
            Ok(Start::TimelineEnded {
                client,
                next,
                switch,
            }) => {
                self.finish(written).await?;
                Ok(StreamEnd::Switched {
                    client: Box::new(client),
                    next: (next, switch),
                })
            }
            Err(error) if error.is_gap() && !written.is_cut_off() => {
                tracing::error!(%error, "the server gave up the replication slot while the store was away");
                Ok(StreamEnd::SlotLost(Box::new(written)))
            }
            Err(error) if error.is_gap() => {
                self.finish(written).await?;
                Ok(StreamEnd::Gap)
            }
            Err(error) => {
                self.carried = Some(written);
                Err(error.into())
            }
        }
    }

    /// Makes the slot anew, and goes on: the server has what was written last, slot or not.
    pub(super) async fn carry_on_with_new_slot(
        &mut self,
        mut written: Written,
    ) -> Result<StreamEnd, CaptureError> {
        match self.new_slot().await {
            Ok((client, identity)) => {
                written.anew_at = Some(written.end());
                self.carry_on(client, written, &identity).await
            }
            Err(error) => {
                self.carried = Some(written);
                Err(error)
            }
        }
    }

    async fn new_slot(&mut self) -> Result<(ReplicationClient, SystemIdentity), CaptureError> {
        let mut client = self.connect().await?;
        let identity = client.identify_system().await?;
        self.source.check(&identity)?;
        let slot = &self.settings.slot;
        if self.settings.create_slot && client.read_replication_slot(slot).await?.is_some() {
            tracing::warn!(
                slot,
                "making the replication slot anew; what was read before lies in the spool"
            );
            client.drop_slot(slot).await?;
        }
        // The server would take an older position for the slot's, and give it up at the next checkpoint.
        self.slot_from = self
            .ensure_slot(&mut client, None)
            .await?
            .unwrap_or_default();
        Ok((client, identity))
    }
}

impl ReplicationError {
    /// The server cannot give what the archive needs next: the WAL was removed, or the slot was given up.
    pub(super) fn is_gap(&self) -> bool {
        match self {
            Self::WalRemoved(_) => true,
            Self::Server(error) => error.code == "55000",
            _ => false,
        }
    }
}
