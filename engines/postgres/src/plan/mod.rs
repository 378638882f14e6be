//! Planning: from a target to the one record where recovery stops, the base, and the proof that everything between is there.

mod shape;

pub use shape::{PathStep, Plan, StopAt};
