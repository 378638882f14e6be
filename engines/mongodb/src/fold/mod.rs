//! The fold: a base copy and the log up to a cluster time become the state at that time, as BSON, with no server. `replay`
//! hands on operations in the order in which they took effect (`transactions` of the oplog's entries, `events` of a change stream's),
//! `catalogue` says which collections there are, `documents` what is in them.

mod builder;
pub mod catalogue;
pub mod diff;
mod documents;
mod entry;
mod error;
mod events;
pub mod key;
mod ordered;
mod partition;
pub mod raw;
mod record;
mod replay;
mod scratch;
mod transactions;

pub use documents::{Batch, Cap, Content, Documents, Folded, Limits, Predicate, Sink, Wanted};
pub use entry::{Entry, Session};
pub use error::FoldError;
pub use events::{Events, views_of};
pub use replay::Replay;
pub use transactions::{Effect, Keep, Unwrapper};
