//! When to read from a source that has just been read empty. One that writes all the time has a little more every moment: whoever takes each
//! bit as it comes wakes source and archive thousands of times a second, and takes from the database what its transactions need.
//! While nobody reads, a source behind a unix socket soon waits for room in it, sleeps, and then sends much at once.

use std::time::Duration;

use tokio::time::Instant;

/// A rest is this part of the linger, within the two limits.
const RESTS_A_LINGER: u32 = 10;
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(100);

/// The pace of one reader.
#[derive(Debug)]
pub struct Pace {
    rest: Duration,
    /// The end of the last rest.
    since: Instant,
    /// The source had no more when it sent what was read last.
    is_level: bool,
}

impl Pace {
    /// For a log whose segments linger so long.
    #[must_use]
    pub fn new(linger: Duration) -> Self {
        Self {
            rest: (linger / RESTS_A_LINGER).clamp(REST_MIN, REST_MAX),
            since: Instant::now(),
            is_level: false,
        }
    }

    /// Something was read, and whether it was all that the source had.
    pub fn read(&mut self, is_level: bool) {
        self.is_level = is_level;
    }

    /// Nothing is there for now: whether to rest before looking again, which nobody does while the source is known to have more.
    pub fn rests(&mut self) -> bool {
        let now = Instant::now();
        if self.is_level && now >= self.since {
            self.since = now + self.rest;
        }
        self.since > now
    }

    /// The end of the rest. Cancel safe: what is left of it is taken with the next call.
    pub async fn rest(&self) {
        tokio::time::sleep_until(self.since).await;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    /// How long 50 looks take at a source that had no more each time, or had.
    async fn looks(is_level: bool) -> Duration {
        let (mut pace, start) = (Pace::new(SECOND), Instant::now());
        for _ in 0..50 {
            pace.read(is_level);
            assert_eq!(pace.rests(), is_level);
            pace.rest().await;
        }
        start.elapsed()
    }

    #[tokio::test(start_paused = true)]
    async fn a_source_that_writes_a_little_all_the_time_is_read_in_gulps_and_one_that_has_more_at_once()
     {
        assert!(looks(true).await >= 50 * REST_MAX);
        assert_eq!(looks(false).await, Duration::ZERO);
    }

    #[test]
    fn a_rest_is_a_small_part_of_the_linger() {
        assert_eq!(Pace::new(Duration::from_millis(5)).rest, REST_MIN);
        let linger = Duration::from_millis(200);
        assert_eq!(Pace::new(linger).rest, linger / RESTS_A_LINGER);
        assert_eq!(Pace::new(600 * SECOND).rest, REST_MAX);
    }

    #[tokio::test(start_paused = true)]
    async fn a_rest_that_was_broken_off_is_taken_up_again() {
        let mut pace = Pace::new(SECOND);
        pace.read(true);
        assert!(pace.rests());
        let broken = tokio::time::timeout(REST_MAX / 4, pace.rest()).await;
        assert!(broken.is_err());
        let start = Instant::now();
        assert!(pace.rests());
        pace.rest().await;
        assert!(start.elapsed() < REST_MAX, "{:?}", start.elapsed());
        assert!(start.elapsed() >= REST_MAX / 2, "{:?}", start.elapsed());
    }
}
