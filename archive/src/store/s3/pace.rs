//! How many calls may be under way at once: more while all goes well, half as many when the store asks to slow down.

use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// Calls at once, at most. What is above it runs into the store's own limits of a prefix.
const CALLS_MAX: usize = 64;
/// One storm is answered once: complaints that come within so long of the last cut are about the calls before it.
const CUT_EVERY: Duration = Duration::from_secs(1);

/// Additive increase, multiplicative decrease.
#[derive(Debug)]
pub(super) struct Pace {
    calls: Arc<Semaphore>,
    state: Mutex<State>,
}

#[derive(Debug)]
struct State {
    /// Calls that may be under way.
    limit: usize,
    /// Permits that are to disappear when they come back.
    debt: usize,
    /// Calls that went well since the last step up.
    well: usize,
    cut: Option<Instant>,
}

impl Pace {
    pub(super) fn new() -> Self {
        let state = State {
            limit: CALLS_MAX,
            debt: 0,
            well: 0,
            cut: None,
        };
        Self {
            calls: Arc::new(Semaphore::new(CALLS_MAX)),
            state: Mutex::new(state),
        }
    }

    /// Waits until one more call may begin.
    pub(super) async fn enter(&self) -> OwnedSemaphorePermit {
        let permit = Arc::clone(&self.calls).acquire_owned().await;
        permit.expect("the semaphore is never closed")
    }

    /// The call ended; `throttled` if the store asked for fewer.
    pub(super) fn leave(&self, permit: OwnedSemaphorePermit, throttled: bool, now: Instant) {
        let mut state = self.state.lock().expect("no holder panics");
        if throttled {
            let storm = state.cut.is_some_and(|cut| now - cut < CUT_EVERY);
            if !storm && state.limit > 1 {
                state.debt += state.limit - state.limit / 2;
                state.limit /= 2;
                state.cut = Some(now);
            }
            state.well = 0;
        } else if state.limit < CALLS_MAX {
            state.well += 1;
            if state.well >= state.limit {
                state.well = 0;
                state.limit += 1;
                if state.debt > 0 {
                    state.debt -= 1;
                } else {
                    self.calls.add_permits(1);
                }
            }
        }
        if state.debt > 0 {
            state.debt -= 1;
            permit.forget();
            state.debt -= self.calls.forget_permits(state.debt);
        }
    }

    #[cfg(test)]
    fn limit(&self) -> usize {
        self.state.lock().unwrap().limit
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_storm_halves_the_calls_once_and_calm_brings_them_back() {
        let (pace, start) = (Pace::new(), Instant::now());
        let mut held = Vec::new();
        for _ in 0..CALLS_MAX {
            held.push(pace.enter().await);
        }
        for permit in held.drain(..) {
            pace.leave(permit, true, start);
        }
        assert_eq!(
            (pace.limit(), pace.calls.available_permits()),
            (CALLS_MAX / 2, CALLS_MAX / 2)
        );
        let permit = pace.enter().await;
        pace.leave(permit, true, start + CUT_EVERY);
        assert_eq!(pace.limit(), CALLS_MAX / 4);
        for _ in 0..CALLS_MAX * CALLS_MAX {
            let permit = pace.enter().await;
            pace.leave(permit, false, start);
        }
        assert_eq!(
            (pace.limit(), pace.calls.available_permits()),
            (CALLS_MAX, CALLS_MAX)
        );
    }

    #[tokio::test]
    async fn one_call_is_always_allowed() {
        let (pace, start) = (Pace::new(), Instant::now());
        for step in 0..20 {
            let permit = pace.enter().await;
            pace.leave(permit, true, start + CUT_EVERY * step);
        }
        assert_eq!((pace.limit(), pace.calls.available_permits()), (1, 1));
    }
}
