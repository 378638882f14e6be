//! Watching how far a majority of the set is, beside the entries: for the lag, and to prove quiet time.

use std::time::Duration;

use mongodb::Client;
use tokio::sync::watch;
use tokio::task::JoinHandle;

use super::Fcv;
use crate::source::{Majority, feature_compatibility};

const EVERY: Duration = Duration::from_secs(1);
/// The feature compatibility version is asked for once in so many turns.
const FCV_TURNS: u32 = 10;

/// Asks for as long as it is kept. What cannot be asked, during an election for example, stays as it was.
pub(super) struct MajorityWatch {
    latest: watch::Receiver<Majority>,
    task: JoinHandle<()>,
}

impl MajorityWatch {
    /// `fcv` is kept up to date where the log does not tell of it.
    pub(super) fn start(client: Client, first: Majority, fcv: Option<Fcv>) -> Self {
        let (publish, latest) = watch::channel(first);
        let task = tokio::spawn(async move {
            let admin = client.database("admin");
            for turn in 1_u32.. {
                tokio::time::sleep(EVERY).await;
                if let Ok(majority) = Majority::ask(&admin).await {
                    publish.send_replace(majority);
                }
                if turn % FCV_TURNS == 0
                    && let Some(fcv) = &fcv
                    && let Ok(Some(found)) = feature_compatibility(&client).await
                {
                    *fcv.lock().expect("no holder panics") = found;
                }
            }
        });
        Self { latest, task }
    }

    /// The next reading; waits for it. Cancel safe.
    pub(super) async fn changed(&mut self) -> Majority {
        if self.latest.changed().await.is_err() {
            // It asks for as long as it is kept.
            std::future::pending::<()>().await;
        }
        *self.latest.borrow_and_update()
    }
}

impl Drop for MajorityWatch {
    fn drop(&mut self) {
        self.task.abort();
    }
}
