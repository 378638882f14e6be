//! The fold: a base copy and the log up to a cluster time become the state at that time, as BSON, with no server. `transactions`
//! puts operations into the order in which they took effect, `catalogue` says which collections there are, `documents` what is in
//! them.

mod builder;
pub mod catalogue;
pub mod diff;
mod documents;
mod entry;
mod error;
pub mod key;
mod ordered;
mod partition;
pub mod raw;
mod record;
mod scratch;
mod transactions;

pub use documents::{Batch, Cap, Content, Documents, Folded, Limits, Predicate, Sink, Wanted};
pub use entry::{Entry, Session};
pub use error::FoldError;
pub use transactions::{Effect, Keep, Unwrapper};
