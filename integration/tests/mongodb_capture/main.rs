//! Capture of a replica set, by its oplog and through a change stream: what is archived is what the source has, word for word.

mod both;
mod events;
mod oplog;
mod source;
