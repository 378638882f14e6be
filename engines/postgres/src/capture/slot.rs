//! The replication slot: made where it is missing, made anew where the server gave it up.

use super::{Capture, CaptureError};
use crate::Lsn;
use crate::replication::ReplicationClient;

impl Capture {
    /// Makes sure that there is a slot, and tells from where on it keeps WAL. `durable` is for the message.
    pub(super) async fn ensure_slot(
        &self,
        client: &mut ReplicationClient,
        durable: Option<Lsn>,
    ) -> Result<Option<Lsn>, CaptureError> {
        let slot = &self.settings.slot;
        if let Some(state) = client.read_replication_slot(slot).await? {
            return Ok(state.restart_lsn);
        }
        if !self.settings.create_slot {
            return Err(CaptureError::SlotMissing {
                slot: slot.clone(),
                durable: durable.unwrap_or_default(),
            });
        }
        if durable.is_some() {
            tracing::warn!(
                slot,
                "the replication slot is missing on this server; creating it"
            );
        }
        client.create_physical_slot(slot, true, false).await?;
        let state = client.read_replication_slot(slot).await?;
        tracing::info!(slot, restart_lsn = ?state.as_ref().and_then(|state| state.restart_lsn), "replication slot created");
        Ok(state.and_then(|state| state.restart_lsn))
    }

    /// The server no longer has what the archive needs next, which ends at `durable`. From where on it does have WAL: where a live
    /// slot keeps it, or where a new one does. A slot that claims to keep what the server could not send is of no use.
    pub(super) async fn slot_after_gap(
        &self,
        client: &mut ReplicationClient,
        durable: Option<Lsn>,
    ) -> Result<Option<Lsn>, CaptureError> {
        let slot = &self.settings.slot;
        if let Some(state) = client.read_replication_slot(slot).await? {
            if let Some(restart) = state
                .restart_lsn
                .filter(|&restart| durable.is_none_or(|durable| restart > durable))
            {
                return Ok(Some(restart));
            }
            if !self.settings.create_slot {
                return Err(CaptureError::SlotMissing {
                    slot: slot.clone(),
                    durable: durable.unwrap_or_default(),
                });
            }
            tracing::error!(
                slot,
                "the server gave up what the replication slot was to keep; making it anew"
            );
            client.drop_slot(slot).await?;
        }
        self.ensure_slot(client, durable).await
    }
}
