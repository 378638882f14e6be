//! Waiting that may rightly last for ever: for a store that is away, for a source to come back. A capture says where it is through a
//! channel, and whoever supervises it takes silence for a task that is stuck; so whoever waits says now and then that he does.

use std::time::Duration;

use tokio::sync::watch;
use tokio::time::{Instant, MissedTickBehavior};

/// A word is said so often.
const EVERY: Duration = Duration::from_secs(5);

/// Waits for `wait`, and publishes `status` as it is meanwhile. Cancel safe if `wait` is.
pub async fn audibly<T, S>(status: &watch::Sender<S>, wait: impl Future<Output = T>) -> T {
    tokio::pin!(wait);
    let mut timer = tokio::time::interval_at(Instant::now() + EVERY, EVERY);
    timer.set_missed_tick_behavior(MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            biased;
            done = &mut wait => return done,
            _ = timer.tick() => status.send_modify(|_| {}),
        }
    }
}

/// Returns when `stop` turns true, or nobody is left to say so. Cancel safe.
pub async fn stopped(stop: &mut watch::Receiver<bool>) {
    // Not the value: whoever waits for it beside other things would hold its lock, and could not move between threads.
    let _ = stop.wait_for(|&stop| stop).await;
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test(start_paused = true)]
    async fn who_waits_is_heard_until_it_is_over_and_what_he_waited_for_is_handed_on() {
        let (status, mut heard) = watch::channel(7);
        let hour = Duration::from_secs(60 * 60);
        let count = async {
            let mut words = 0;
            while tokio::time::timeout(2 * EVERY, heard.changed())
                .await
                .is_ok()
            {
                assert_eq!(*heard.borrow_and_update(), 7, "nothing is changed by it");
                words += 1;
            }
            words
        };
        let wait = async {
            tokio::time::sleep(hour).await;
            "done"
        };
        let (done, words) = tokio::join!(audibly(&status, wait), count);
        assert_eq!(done, "done");
        assert!(words + 1 >= hour.as_secs() / EVERY.as_secs(), "{words}");
    }
}
