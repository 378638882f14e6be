//! Cluster times, which order a replica set's oplog and are the positions of its streams.

use std::fmt;
use std::str::FromStr;

use bson::Timestamp;
use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// A cluster time: seconds since the Unix epoch in the high 32 bits, an ordinal within the second in the low ones. Written
/// `SECONDS.INCREMENT`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Default, Debug)]
pub struct ClusterTime(pub u64);

/// Text that is not a cluster time.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0:?} is not a cluster time; write SECONDS.INCREMENT, as in 1795176184.7")]
pub struct NotAClusterTime(String);

impl ClusterTime {
    /// From its two halves.
    #[must_use]
    pub const fn new(seconds: u32, increment: u32) -> Self {
        Self((seconds as u64) << 32 | increment as u64)
    }

    /// Seconds since the Unix epoch.
    #[must_use]
    pub const fn seconds(self) -> u32 {
        (self.0 >> 32) as u32
    }

    /// Ordinal within the second.
    #[must_use]
    pub const fn increment(self) -> u32 {
        self.0 as u32
    }

    /// The position behind it: a range `[start, end)` of a stream whose last entry has this time ends there.
    #[must_use]
    pub const fn next(self) -> Self {
        Self(self.0.saturating_add(1))
    }

    /// The time before it, which need not be an entry's.
    #[must_use]
    pub const fn previous(self) -> Self {
        Self(self.0.saturating_sub(1))
    }
}

impl From<Timestamp> for ClusterTime {
    fn from(time: Timestamp) -> Self {
        Self::new(time.time, time.increment)
    }
}

impl From<ClusterTime> for Timestamp {
    fn from(time: ClusterTime) -> Self {
        Self {
            time: time.seconds(),
            increment: time.increment(),
        }
    }
}

impl fmt::Display for ClusterTime {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}.{}", self.seconds(), self.increment())
    }
}

impl FromStr for ClusterTime {
    type Err = NotAClusterTime;

    fn from_str(text: &str) -> Result<Self, NotAClusterTime> {
        let half = |text: &str| {
            let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
            digits.then(|| text.parse::<u32>().ok()).flatten()
        };
        let halves = text
            .split_once('.')
            .map(|(seconds, increment)| (half(seconds), half(increment)));
        match halves {
            Some((Some(seconds), Some(increment))) => Ok(Self::new(seconds, increment)),
            _ => Err(NotAClusterTime(text.into())),
        }
    }
}

impl Serialize for ClusterTime {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        Timestamp::from(*self).serialize(serializer)
    }
}

impl<'de> Deserialize<'de> for ClusterTime {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Timestamp::deserialize(deserializer).map(Self::from)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_cluster_time_reads_back_as_it_is_written() {
        let time = ClusterTime::new(1_795_176_184, 7);
        assert_eq!(time.to_string(), "1795176184.7");
        assert_eq!("1795176184.7".parse(), Ok(time));
        assert_eq!(ClusterTime::from(Timestamp::from(time)), time);
    }

    #[test]
    fn an_ordinal_beyond_ten_comes_after_it() {
        let [two, ten]: [ClusterTime; 2] = ["5.2", "5.10"].map(|text| text.parse().unwrap());
        assert!(two < ten && ten < "6.0".parse().unwrap());
        assert_eq!(two.next(), "5.3".parse().unwrap());
        assert_eq!(ClusterTime::new(5, u32::MAX).next(), ClusterTime::new(6, 0));
    }

    #[test]
    fn what_is_not_two_numbers_is_refused() {
        for wrong in [
            "",
            "5",
            "5.",
            ".5",
            "5.5.5",
            "+5.1",
            "5.-1",
            "4294967296.0",
            "0/3000028",
        ] {
            assert!(wrong.parse::<ClusterTime>().is_err(), "{wrong:?}");
        }
    }
}
