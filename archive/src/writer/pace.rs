//! When to read from a source that has just been read empty. One that writes all the time has a little more every moment: whoever takes each
//! bit as it comes wakes source and archive thousands of times a second, and takes from the database what its transactions need.

use std::time::Duration;

use tokio::time::Instant;

/// A rest is this part of the linger, within the two limits.
const RESTS_A_LINGER: u32 = 20;
const REST_MIN: Duration = Duration::from_millis(1);
const REST_MAX: Duration = Duration::from_millis(4);
/// Whoever sends more than this in the time of a rest is read without one: buffers of the operating system hold not much more.
const BYTES_A_REST: u64 = 96 * 1024;
/// So many rests long a busy source is read without a rest before it is looked at again.
const RESTS_BUSY: u32 = 8;

/// The pace of one reader.
#[derive(Debug)]
pub struct Pace {
    rest: Duration,
    /// The end of the last rest.
    since: Instant,
    /// Read since then.
    bytes: u64,
}

impl Pace {
    /// For a log whose segments linger so long.
    #[must_use]
    pub fn new(linger: Duration) -> Self {
        Self {
            rest: (linger / RESTS_A_LINGER).clamp(REST_MIN, REST_MAX),
            since: Instant::now(),
            bytes: 0,
        }
    }

    /// So many bytes were read.
    pub fn read(&mut self, bytes: usize) {
        self.bytes += bytes as u64;
    }

    /// The source has nothing more for now: returns when it is time to look again. Cancel safe: what is left of the rest is taken with
    /// the next call.
    pub async fn rest(&mut self) {
        self.decide(Instant::now());
        tokio::time::sleep_until(self.since).await;
    }

    /// Moves `since` to the end of the rest that is due, if one is.
    fn decide(&mut self, now: Instant) {
        let elapsed = now.saturating_duration_since(self.since);
        let counted = elapsed < self.rest * RESTS_BUSY;
        if now < self.since || (counted && self.bytes > BYTES_A_REST) {
            return;
        }
        let rests = elapsed.as_secs_f64() / self.rest.as_secs_f64();
        let busy = self.bytes as f64 > BYTES_A_REST as f64 * rests.max(1.0);
        self.since = if busy { now } else { now + self.rest };
        self.bytes = 0;
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const REST: Duration = Duration::from_millis(4);

    /// How often a source that sends `bytes_per_ms` is looked at in a second, if every look reads it empty.
    fn looks(bytes_per_ms: u64) -> u64 {
        let mut pace = Pace::new(Duration::from_secs(1));
        let (start, mut now) = (pace.since, pace.since);
        let (mut looks, mut read) = (0, 0);
        while now < start + Duration::from_secs(1) {
            looks += 1;
            let sent = now.duration_since(start).as_micros() as u64 * bytes_per_ms / 1000;
            pace.read((sent - read) as usize);
            read = sent;
            pace.decide(now);
            now = pace.since.max(now + Duration::from_micros(20));
        }
        looks
    }

    #[test]
    fn a_source_that_writes_a_little_all_the_time_is_read_in_gulps() {
        assert_eq!(looks(0), 250);
        assert_eq!(looks(1_000), 250);
        assert!(looks(20_000) < 300, "{}", looks(20_000));
    }

    #[test]
    fn one_that_writes_much_is_read_without_a_rest() {
        // One look in 20 µs; the first burst of each stretch finds a rest.
        assert!(looks(100_000) > 40_000, "{}", looks(100_000));
    }

    #[test]
    fn a_rest_is_a_small_part_of_the_linger() {
        assert_eq!(Pace::new(Duration::from_millis(10)).rest, REST_MIN);
        assert_eq!(Pace::new(Duration::from_secs(600)).rest, REST);
    }

    #[tokio::test]
    async fn a_rest_that_was_broken_off_is_taken_up_again() {
        let mut pace = Pace::new(Duration::from_secs(1));
        assert!(
            tokio::time::timeout(Duration::ZERO, pace.rest())
                .await
                .is_err()
        );
        let due = pace.since;
        pace.rest().await;
        assert!(pace.since >= due && Instant::now() >= due);
    }
}
