//! What systemd is told: READY, STATUS with ERRNO, STOPPING, and the watchdog's beat. Outside a `Type=notify` unit every call does
//! nothing. The beat is the main loop's, as long as it finds the capture alive: a process that hangs is restarted by systemd.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::Duration;

use systemd::daemon;

/// Says that the daemon has started: the source is connected and its stream is flowing.
pub fn ready() {
    tell(&[(daemon::STATE_READY, "1")]);
}

/// Says that the daemon is stopping.
pub fn stopping() {
    tell(&[(daemon::STATE_STOPPING, "1")]);
}

/// Sets the one line that `systemctl status` shows, and the number that it shows as an error unless it is 0
/// (`systemctl show --property StatusErrno`).
pub fn state(line: &str, errno: i32) {
    let line = line.replace(['\n', '\0'], " ");
    let errno = errno.to_string();
    tell(&[(daemon::STATE_STATUS, &line), (daemon::STATE_ERRNO, &errno)]);
}

fn tell(words: &[(&str, &str)]) {
    static SAID: AtomicBool = AtomicBool::new(false);
    if let Err(error) = daemon::notify(words.iter())
        && !SAID.swap(true, Ordering::Relaxed)
    {
        tracing::warn!(%error, "systemd was not notified; this is said once");
    }
}

/// Counts the turns of the loop that must not hang. Clones count together.
#[derive(Clone, Debug, Default)]
pub struct Heartbeat(Arc<AtomicU64>);

impl Heartbeat {
    /// One more turn.
    pub fn beat(&self) {
        self.0.fetch_add(1, Ordering::Relaxed);
    }

    fn count(&self) -> u64 {
        self.0.load(Ordering::Relaxed)
    }
}

/// How often systemd wants to hear from this process; `None` when it does not.
#[must_use]
pub fn watchdog_interval() -> Option<Duration> {
    let limit_us = daemon::watchdog_enabled().ok().filter(|&limit| limit > 0)?;
    // Half the limit, as sd_watchdog_enabled(3) recommends.
    Some(Duration::from_micros(limit_us / 2))
}

/// Passes `heart`'s beats on to systemd, at most one every `interval` and none when there was none. Never returns.
pub async fn watch(heart: Heartbeat, interval: Duration) {
    let mut timer = tokio::time::interval(interval);
    let mut seen = heart.count();
    loop {
        timer.tick().await;
        let count = heart.count();
        if count != seen {
            seen = count;
            tell(&[(daemon::STATE_WATCHDOG, "1")]);
        } else {
            tracing::debug!("no turn since the last look, the watchdog is not fed");
        }
    }
}
