//! Which readings of the server's clock prove that nothing else had been written by then.
//!
//! A keepalive says how far the walsender has SENT, not how far the server has written: while it cannot send, its clock runs on and
//! its position stands still. So a reading counts only with proof that nothing was waiting to be sent.

use std::time::Duration;

use tokio::time::Instant;

use crate::Lsn;

/// A commit has its time before its record is written.
const MARGIN_US: i64 = 1_000_000;
/// Readings count at most so often.
const EVERY: Duration = Duration::from_secs(1);
/// Between two keepalives with the same position, a walsender that can send has looked for more WAL many times.
const APART: Duration = Duration::from_secs(2);

/// Judges clock readings of one stream.
#[derive(Debug)]
pub(super) struct QuietClock {
    /// A standby's clock says nothing about what its primary has written.
    is_standby: bool,
    received: Lsn,
    /// A keepalive at the end of what was received, and when it came.
    mark: Option<(Instant, i64)>,
    credited: Option<Instant>,
}

impl QuietClock {
    pub(super) fn new(is_standby: bool) -> Self {
        Self {
            is_standby,
            received: Lsn(0),
            mark: None,
            credited: None,
        }
    }

    /// We do not read: what the server says now may be old when it arrives.
    pub(super) fn blocked(&mut self) {
        self.mark = None;
    }

    /// WAL up to `end` came, and the server's flushed WAL ended at `server_end`. A reading that counts, and its position.
    pub(super) fn wal(&mut self, end: Lsn, server_end: Lsn, clock: i64) -> Option<(i64, Lsn)> {
        self.received = end;
        self.mark = None;
        let all = end == server_end && !self.is_standby;
        let due = self.credited.is_none_or(|at| at.elapsed() >= EVERY);
        (all && due).then(|| {
            self.credited = Some(Instant::now());
            (clock - MARGIN_US, end)
        })
    }

    /// A keepalive came. The reading of the one before it counts if nothing came between, well apart.
    pub(super) fn keepalive(&mut self, sent: Lsn, clock: i64) -> Option<(i64, Lsn)> {
        if self.is_standby || self.received == Lsn(0) || sent != self.received {
            self.mark = None;
            return None;
        }
        match self.mark {
            Some((at, earlier)) if at.elapsed() >= APART => {
                self.mark = Some((Instant::now(), clock));
                Some((earlier - MARGIN_US, sent))
            }
            Some(_) => None,
            None => {
                self.mark = Some((Instant::now(), clock));
                None
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: i64 = 1_000_000;

    #[tokio::test(start_paused = true)]
    async fn keepalives_that_queued_up_while_we_did_not_read_prove_nothing() {
        let mut quiet = QuietClock::new(false);
        assert!(
            quiet.wal(Lsn(100), Lsn(200), 0).is_none(),
            "more was written than was sent"
        );
        quiet.blocked();
        tokio::time::advance(Duration::from_secs(60)).await;
        for second in 0..10 {
            assert!(quiet.keepalive(Lsn(100), second * SECOND).is_none());
        }
    }

    #[tokio::test(start_paused = true)]
    async fn an_idle_server_is_believed_one_keepalive_later() {
        let mut quiet = QuietClock::new(false);
        assert_eq!(
            quiet.wal(Lsn(100), Lsn(100), 5 * SECOND),
            Some((4 * SECOND, Lsn(100)))
        );
        assert!(quiet.keepalive(Lsn(100), 10 * SECOND).is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert_eq!(
            quiet.keepalive(Lsn(100), 15 * SECOND),
            Some((9 * SECOND, Lsn(100)))
        );
    }

    #[tokio::test(start_paused = true)]
    async fn a_standby_is_never_believed() {
        let mut quiet = QuietClock::new(true);
        assert!(quiet.wal(Lsn(100), Lsn(100), 0).is_none());
        assert!(quiet.keepalive(Lsn(100), 0).is_none());
        tokio::time::advance(Duration::from_secs(5)).await;
        assert!(quiet.keepalive(Lsn(100), 5 * SECOND).is_none());
    }
}
