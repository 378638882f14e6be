//! An object store for benchmarks: `pitr-bench-store DELAY_MS` prints its port. For each line it is sent it prints the calls so far, by
//! method, and it ends with its standard input.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::Context;
use pitr_integration::BenchStore;

fn main() -> anyhow::Result<()> {
    let delay_ms = std::env::args().nth(1).context("DELAY_MS")?;
    let store = BenchStore::start(Duration::from_millis(delay_ms.parse()?))?;
    let mut out = std::io::stdout();
    writeln!(out, "{}", store.port())?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", serde_json::to_string(&store.counts())?)?;
        out.flush()?;
    }
    Ok(())
}
