//! When archiving stands still: since when, and why. READY is said once and cannot be taken back (sd_notify(3) has no word for it), and
//! ending the process would help nobody: so the state says it in its first words, `ERRNO` says it to machines, and the log as an error.

use std::time::{Duration, Instant};

use pitr_archive::writer::Trouble;

use crate::config::show_duration;
use crate::watching::View;

/// What passes sooner, a server that restarts or a put that is tried again, is no alarm.
const ALARM_AFTER: Duration = Duration::from_secs(10);

/// `ERRNO` while all is well.
pub const WELL: i32 = 0;
/// `ENOTCONN`: the source does not let us in.
pub const SOURCE_AWAY: i32 = 107;
/// `EIO`: the store takes nothing.
pub const STORE_AWAY: i32 = 5;

/// Follows what keeps the daemon from archiving.
#[derive(Debug)]
pub struct Outage {
    /// Since when there is no connection with the source.
    away: Option<Instant>,
    /// Since when there is an alarm.
    alarm: Option<Instant>,
}

/// What is to be said at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct State {
    /// The line begins with it, if nothing is archived.
    pub line: Option<String>,
    /// For systemd's `ERRNO`.
    pub errno: i32,
    /// What changed since the last look.
    pub news: Option<News>,
}

/// A change.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum News {
    /// Nothing has been archived for long enough.
    Began,
    /// It goes on, after so long.
    Ended(Duration),
}

impl Outage {
    /// At the start of the daemon: it is not connected yet.
    #[must_use]
    pub fn new(now: Instant) -> Self {
        Self {
            away: Some(now),
            alarm: None,
        }
    }

    /// Looks at what the capture and the store say.
    pub fn look(&mut self, now: Instant, view: &View, trouble: Option<&Trouble>) -> State {
        self.away = if view.streaming {
            None
        } else {
            self.away.or(Some(now))
        };
        let lasting = match (trouble, self.away) {
            (Some(trouble), _) => Some((trouble.since, STORE_AWAY, of_store(now, view, trouble))),
            (None, Some(since)) => Some((since, SOURCE_AWAY, of_source(now, view, since))),
            (None, None) => None,
        };
        let Some((since, errno, line)) = lasting else {
            let ended = self.alarm.take();
            let news = ended.map(|since| News::Ended(now.saturating_duration_since(since)));
            return State {
                line: None,
                errno: WELL,
                news,
            };
        };
        let is_alarm = self.alarm.is_some() || now.saturating_duration_since(since) >= ALARM_AFTER;
        let began = is_alarm && self.alarm.is_none();
        if began {
            self.alarm = Some(since);
        }
        State {
            line: Some(line),
            errno: if is_alarm { errno } else { WELL },
            news: began.then_some(News::Began),
        }
    }
}

fn of_store(now: Instant, view: &View, trouble: &Trouble) -> String {
    let seconds = now.saturating_duration_since(trouble.since).as_secs();
    let (lag, reason) = (&view.lag, &trouble.reason);
    format!(
        "NOT ARCHIVING: the store has not taken an object for {seconds} s ({reason}); {lag} behind"
    )
}

fn of_source(now: Instant, view: &View, since: Instant) -> String {
    let seconds = now.saturating_duration_since(since).as_secs();
    let time = show_duration(Duration::from_secs(seconds.max(1)));
    let reason = view
        .problem
        .as_deref()
        .unwrap_or("connecting to the server");
    let durable = &view.durable_text;
    format!("NOT ARCHIVING for {time}: {reason}; archived up to {durable}")
}

#[cfg(test)]
mod tests {
    use super::*;

    const SECOND: Duration = Duration::from_secs(1);

    fn view(problem: Option<&str>) -> View {
        View {
            streaming: problem.is_none(),
            problem: problem.map(Into::into),
            received: 9,
            durable: 9,
            pending: false,
            durable_text: "0/9".into(),
            lag: "1.0 MiB".into(),
            gaps: 0,
        }
    }

    /// An outage of a daemon that had been streaming.
    fn streaming(start: Instant) -> Outage {
        let mut outage = Outage::new(start);
        let state = outage.look(start, &view(None), None);
        assert_eq!((state.line, state.errno, state.news), (None, WELL, None));
        outage
    }

    #[test]
    fn a_source_that_is_away_is_said_at_once_and_becomes_an_alarm_that_is_taken_back() {
        let start = Instant::now();
        let mut outage = streaming(start);
        let expired = view(Some("the server's certificate has expired"));
        let state = outage.look(start + SECOND, &expired, None);
        let said = "NOT ARCHIVING for 1s: the server's certificate has expired; archived up to 0/9";
        assert_eq!(state.line.as_deref(), Some(said));
        assert_eq!((state.errno, state.news), (WELL, None), "it may pass");
        let state = outage.look(start + SECOND + ALARM_AFTER, &expired, None);
        assert_eq!((state.errno, state.news), (SOURCE_AWAY, Some(News::Began)));
        let state = outage.look(start + 301 * SECOND, &expired, None);
        assert_eq!((state.errno, state.news), (SOURCE_AWAY, None), "once");
        assert!(state.line.unwrap().starts_with("NOT ARCHIVING for 5min: "));
        let state = outage.look(start + 302 * SECOND, &view(None), None);
        let ended = Some(News::Ended(301 * SECOND));
        assert_eq!((state.line, state.errno, state.news), (None, WELL, ended));
    }

    #[test]
    fn a_restart_of_the_server_is_no_alarm() {
        let start = Instant::now();
        let mut outage = streaming(start);
        for second in 1..10 {
            let state = outage.look(start + second * SECOND, &view(Some("gone")), None);
            assert_eq!((state.errno, state.news), (WELL, None));
        }
        let state = outage.look(start + ALARM_AFTER, &view(None), None);
        assert_eq!((state.line, state.news), (None, None));
    }

    #[test]
    fn the_store_s_trouble_comes_first_and_an_alarm_goes_from_one_to_the_other() {
        let start = Instant::now();
        let mut outage = streaming(start);
        let trouble = Trouble {
            since: start,
            reason: "503".into(),
        };
        let now = start + 20 * SECOND;
        let state = outage.look(now, &view(Some("gone")), Some(&trouble));
        let said =
            "NOT ARCHIVING: the store has not taken an object for 20 s (503); 1.0 MiB behind";
        assert_eq!(state.line.as_deref(), Some(said));
        assert_eq!((state.errno, state.news), (STORE_AWAY, Some(News::Began)));
        let state = outage.look(now + SECOND, &view(Some("gone")), None);
        assert_eq!((state.errno, state.news), (SOURCE_AWAY, None));
        let state = outage.look(now + 2 * SECOND, &view(None), None);
        assert_eq!(state.news, Some(News::Ended(22 * SECOND)));
    }

    #[test]
    fn a_daemon_that_never_got_in_says_so() {
        let start = Instant::now();
        let mut outage = Outage::new(start);
        let mut first = view(Some("x"));
        first.problem = None;
        let state = outage.look(start + ALARM_AFTER, &first, None);
        assert_eq!((state.errno, state.news), (SOURCE_AWAY, Some(News::Began)));
        assert!(state.line.unwrap().contains("connecting to the server"));
    }
}
