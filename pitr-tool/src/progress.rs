//! How far a long command is: a bar where standard error is a terminal, a line every few seconds where it is not.
//! Work counts into a [`Progress`] from any thread; nothing is shown on standard output.

use std::sync::Mutex;
use std::time::{Duration, Instant};

use indicatif::{ProgressBar, ProgressDrawTarget, ProgressStyle};
use pitrd::config::show_bytes;

const LINE_EVERY: Duration = Duration::from_secs(5);
const BAR: &str =
    "{msg} [{bar:30}] {binary_bytes}/{binary_total_bytes} {binary_bytes_per_sec} {eta}";
const COUNTER: &str = "{msg} {binary_bytes} {binary_bytes_per_sec}";

/// Bytes done of bytes to do.
#[derive(Debug)]
pub struct Progress {
    what: String,
    bar: ProgressBar,
    last_line: Option<Mutex<Instant>>,
}

impl Progress {
    /// Starts showing `what`, of `total_bytes` where that is known.
    #[must_use]
    pub fn start(what: &str, total_bytes: Option<u64>) -> Self {
        let bar = ProgressBar::with_draw_target(total_bytes, ProgressDrawTarget::stderr());
        let template = if total_bytes.is_some() { BAR } else { COUNTER };
        let style =
            ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar());
        bar.set_style(style);
        bar.set_message(what.to_owned());
        let last_line = bar.is_hidden().then(|| Mutex::new(Instant::now()));
        Self {
            what: what.to_owned(),
            bar,
            last_line,
        }
    }

    /// Counts `bytes` more as done.
    pub fn add(&self, bytes: u64) {
        self.bar.inc(bytes);
        let Some(last) = &self.last_line else { return };
        // Whoever holds the lock is about to write the line.
        if let Ok(mut last) = last.try_lock()
            && last.elapsed() >= LINE_EVERY
        {
            *last = Instant::now();
            eprintln!(
                "{}",
                line(&self.what, self.bar.position(), self.bar.length())
            );
        }
    }

    /// Corrects the total.
    pub fn set_total(&self, total_bytes: u64) {
        self.bar.set_length(total_bytes);
    }

    /// Takes the bar away.
    pub fn finish(&self) {
        self.bar.finish_and_clear();
    }
}

fn line(what: &str, done: u64, total: Option<u64>) -> String {
    match total.filter(|&total| total > 0) {
        None => format!("{what}: {}", show_bytes(done)),
        Some(total) => {
            let percent = u128::from(done) * 100 / u128::from(total);
            format!(
                "{what}: {} of {} ({percent} %)",
                show_bytes(done),
                show_bytes(total)
            )
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_line_says_how_far_it_is() {
        assert_eq!(
            line("restore", 512 << 10, Some(1 << 20)),
            "restore: 512.0 KiB of 1.0 MiB (50 %)"
        );
        assert_eq!(line("backup", 1 << 20, None), "backup: 1.0 MiB");
        assert_eq!(line("restore", 0, Some(0)), "restore: 0 B");
    }

    #[test]
    fn bytes_counted_from_many_threads_are_all_counted() {
        let progress = Progress::start("test", Some(4000));
        std::thread::scope(|scope| {
            for _ in 0..4 {
                scope.spawn(|| (0..1000).for_each(|_| progress.add(1)));
            }
        });
        assert_eq!(progress.bar.position(), 4000);
        progress.finish();
    }
}
