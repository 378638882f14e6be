//! The archived log, entry by entry, as operations that took effect; whichever of the source's logs it is.

use std::path::PathBuf;

use super::error::FoldError;
use super::events::Events;
use super::transactions::{Effect, Keep, Unwrapper};
use crate::LogKind;

/// Takes the log and hands on operations.
#[derive(Debug)]
pub enum Replay {
    /// Of the oplog.
    Oplog(Unwrapper),
    /// Of a change stream.
    Events(Events),
}

impl Replay {
    /// Of the log `kind`; scratch files are made in the directory `scratch`, without a name.
    #[must_use]
    pub fn new(kind: LogKind, keep: Keep, scratch: PathBuf) -> Self {
        match kind {
            LogKind::Oplog => Self::Oplog(Unwrapper::new(keep, scratch)),
            LogKind::Events => Self::Events(Events::new(keep)),
        }
    }

    /// Takes the next entry of the log; `effect` gets what takes effect with it.
    pub fn push(&mut self, bytes: &[u8], effect: Effect<'_>) -> Result<(), FoldError> {
        match self {
            Self::Oplog(unwrapper) => unwrapper.push(bytes, effect),
            Self::Events(events) => events.push(bytes, effect),
        }
    }
}
