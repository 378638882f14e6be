//! What a demo prints: numbered sentences, and what the programs said.
#![allow(clippy::print_stdout)]

use std::time::{Duration, Instant};

/// A story that is being told.
#[derive(Debug)]
pub struct Story {
    step: u32,
    start: Instant,
}

impl Default for Story {
    fn default() -> Self {
        Story {
            step: 0,
            start: Instant::now(),
        }
    }
}

impl Story {
    /// Begins.
    pub fn new() -> Story {
        Story::default()
    }

    /// The next sentence.
    pub fn tell(&mut self, sentence: &str) {
        self.step += 1;
        println!(
            "\n[{:>5.1} s] {}. {sentence}",
            self.start.elapsed().as_secs_f64(),
            self.step
        );
    }

    /// Lines below it.
    pub fn show(&self, text: &str) {
        for line in text.trim_end().lines() {
            println!("            {line}");
        }
    }

    /// How long commits took to be durable in the archive, shortest first, as measured from outside.
    ///
    /// # Panics
    /// If there is no sample.
    pub fn show_lags(&self, lags: &[Duration]) {
        assert!(!lags.is_empty(), "no commit became durable");
        let at = |share: usize| lags[(lags.len() - 1) * share / 100].as_millis();
        self.show(&format!(
            "RPO had the host died  {} ms median, {} ms worst, from commit to durable in the archive ({} samples)",
            at(50),
            at(100),
            lags.len()
        ));
    }
}
