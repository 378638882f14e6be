//! Recovery targets of MongoDB: what a plan turns into one cluster time.

use std::fmt;

use crate::ClusterTime;

/// Where a recovery should end.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Target {
    /// Before the first entry whose wall time is later than this moment, µs since the Unix epoch.
    Time(i64),
    /// The end of what is archived.
    Latest,
    /// The first consistent moment of the newest base copy.
    Immediate,
    /// With the entry of this cluster time.
    Ts(ClusterTime),
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(unix_us) => match jiff::Timestamp::from_microsecond(*unix_us) {
                Ok(time) => write!(f, "{}+00:00", time.to_string().trim_end_matches('Z')),
                Err(_) => write!(f, "{unix_us} microseconds since 1970"),
            },
            Self::Latest => f.write_str("latest"),
            Self::Immediate => f.write_str("immediate"),
            Self::Ts(ts) => write!(f, "ts:{ts}"),
        }
    }
}
