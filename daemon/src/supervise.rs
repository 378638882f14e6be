//! The frame around the daemon's work: signals in, exit out. SIGTERM or SIGINT asks the work to stop and waits for it,
//! so that what was sealed is put and acknowledged; a second one ends the process at once.

use std::future::Future;

use pitr_archive::writer::stopped;
use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::watch;

use crate::notify::{self, Heartbeat};

/// What the work is given: when to stop, and where to show that it turns.
#[derive(Clone, Debug)]
pub struct Supervision {
    stop: watch::Receiver<bool>,
    /// To be beaten at least every few seconds, idle or not.
    pub heart: Heartbeat,
}

impl Supervision {
    /// A receiver that turns `true` once, when the work should stop.
    #[must_use]
    pub fn stop(&self) -> watch::Receiver<bool> {
        self.stop.clone()
    }

    /// Returns when the work should stop.
    pub async fn stopped(&mut self) {
        stopped(&mut self.stop).await;
    }
}

/// Runs `work` until it ends by itself or, after a signal, has stopped. Its result is the result.
pub async fn run<T, W>(work: impl FnOnce(Supervision) -> W) -> anyhow::Result<T>
where
    W: Future<Output = anyhow::Result<T>>,
{
    let (stop, receiver) = watch::channel(false);
    let heart = Heartbeat::default();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    let watchdog = notify::watchdog_interval()
        .map(|interval| tokio::spawn(notify::watch(heart.clone(), interval)));
    let work = work(Supervision {
        stop: receiver,
        heart,
    });
    tokio::pin!(work);
    let result = loop {
        tokio::select! {
            result = &mut work => break result,
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        if stop.send_replace(true) {
            anyhow::bail!("stopped by a second signal before what was under way was durable");
        }
        tracing::info!("stopping: what is sealed is put and acknowledged first");
        notify::stopping();
    };
    if let Some(watchdog) = watchdog {
        watchdog.abort();
    }
    result
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn work_that_ends_by_itself_gives_its_result() {
        let result = run(|supervision| async move {
            supervision.heart.beat();
            Ok(7)
        })
        .await;
        assert_eq!(result.unwrap(), 7);
    }

    #[tokio::test]
    async fn work_is_asked_to_stop_when_its_supervisor_is_gone() {
        let (sender, stop) = watch::channel(false);
        let mut supervision = Supervision {
            stop,
            heart: Heartbeat::default(),
        };
        drop(sender);
        supervision.stopped().await;
    }
}
