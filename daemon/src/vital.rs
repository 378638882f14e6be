//! Whether the capture lives, which feeds the watchdog together with the loop that looks. Alive is who speaks, though he may only say that
//! he waits: for the source, for the store. Who falls silent is stuck; and so is a log that stands still although nothing keeps it from
//! being stored.
//!
//! Counted are turns of the loop and not the clock: a process that was frozen has done nothing wrong.

use std::time::Duration;

use pitr_archive::writer::call_deadline;

use crate::watching::View;

/// A capture speaks every few seconds; what it does without a word in between ends by its own time limits long before.
const SILENT_TURNS_MAX: u32 = 5 * 60;
/// What is not the store's trouble, compressing and sealing, takes no such time, and neither do a few puts.
const STILL_MAX: Duration = Duration::from_secs(30 * 60);

/// The vital signs of a capture.
#[derive(Debug)]
pub struct Vital {
    still_turns_max: u32,
    silent_turns: u32,
    still_turns: u32,
    durable: u64,
    said: bool,
}

impl Vital {
    /// Of a capture whose segments linger so long, and have so many bytes at most. The loop turns once a second.
    #[must_use]
    pub fn new(linger: Duration, segment_bytes_max: u64) -> Self {
        // A put over a slow line is given up after that, and then it is the store's trouble.
        let still = STILL_MAX + linger + call_deadline(segment_bytes_max);
        Self {
            still_turns_max: u32::try_from(still.as_secs()).unwrap_or(u32::MAX),
            silent_turns: 0,
            still_turns: 0,
            durable: 0,
            said: false,
        }
    }

    /// It spoke.
    pub fn heard(&mut self) {
        self.silent_turns = 0;
    }

    /// One turn of the loop; false: it is stuck, and a new process is the remedy. `store_is_away`: the writer says so.
    pub fn turn(&mut self, view: &View, store_is_away: bool) -> bool {
        self.silent_turns = self.silent_turns.saturating_add(1);
        let waits = view.streaming && view.pending && !store_is_away;
        self.still_turns = if waits && view.durable == self.durable {
            self.still_turns.saturating_add(1)
        } else {
            0
        };
        self.durable = view.durable;
        let why = if self.silent_turns > SILENT_TURNS_MAX {
            "it has not said a word"
        } else if self.still_turns > self.still_turns_max {
            "nothing became durable, although the store is not in trouble"
        } else {
            self.said = false;
            return true;
        };
        if !std::mem::replace(&mut self.said, true) {
            tracing::error!(
                seconds = self.silent_turns.max(self.still_turns),
                "the capture is stuck: {why}. The watchdog is no longer fed; where systemd watches, it starts the daemon anew, and \
                 nothing that was acknowledged is lost"
            );
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const LINGER: Duration = Duration::from_secs(60);
    const SEGMENT: u64 = 16 << 20;
    const DAY: u32 = 24 * 60 * 60;

    fn view(streaming: bool, pending: bool, durable: u64) -> View {
        View {
            streaming,
            problem: None,
            received: durable + u64::from(pending),
            durable,
            pending,
            durable_text: String::new(),
            lag: String::new(),
            gaps: 0,
        }
    }

    /// Turns until it counts as stuck, a day at most; `each` says whether the capture speaks, what it says, and whether the store is
    /// away.
    fn turns(mut each: impl FnMut(u32) -> (bool, View, bool)) -> Option<u32> {
        let mut vital = Vital::new(LINGER, SEGMENT);
        (1..=DAY).find(|&turn| {
            let (speaks, view, away) = each(turn);
            if speaks {
                vital.heard();
            }
            !vital.turn(&view, away)
        })
    }

    #[test]
    fn who_speaks_lives_idle_or_waiting_for_the_source() {
        let idle = turns(|turn| (turn % 10 == 0, view(true, false, 7), false));
        assert_eq!(idle, None);
        // What was received before the connection broke need not be known to be durable.
        let disconnected = turns(|turn| (turn % 10 == 0, view(false, true, 7), false));
        assert_eq!(disconnected, None);
    }

    #[test]
    fn a_store_that_is_away_for_a_day_ends_nobody() {
        assert_eq!(turns(|_| (true, view(true, true, 7), true)), None);
        // It comes and goes: a put is given up before half an hour is over.
        let on_and_off = turns(|turn| (true, view(true, true, 7), turn % 1200 == 0));
        assert_eq!(on_and_off, None);
    }

    #[test]
    fn a_capture_that_falls_silent_is_stuck_whatever_the_store_says() {
        let silent = turns(|turn| (turn <= 100, view(true, false, 7), true));
        assert_eq!(silent, Some(100 + SILENT_TURNS_MAX));
    }

    #[test]
    fn a_log_that_stands_still_without_a_reason_is_stuck_and_one_that_moves_is_not() {
        let still = turns(|_| (true, view(true, true, 7), false));
        let after = (STILL_MAX + LINGER + call_deadline(SEGMENT)).as_secs() as u32;
        assert!(
            still.is_some_and(|turns| turns > after && turns <= after + 2),
            "{still:?}"
        );
        let moves = turns(|turn| (true, view(true, true, u64::from(turn / 60)), false));
        assert_eq!(moves, None, "and may always have something on its way");
    }

    #[test]
    fn who_speaks_again_is_well_again() {
        let mut vital = Vital::new(LINGER, SEGMENT);
        let idle = view(true, false, 7);
        while vital.turn(&idle, false) {}
        vital.heard();
        assert!(vital.turn(&idle, false));
    }
}
