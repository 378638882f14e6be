//! The proxy of the tests as a program, for benchmarks: `pitr-latency-proxy UPSTREAM_PORT DELAY_MS` prints its port. For each line
//! it is sent it prints the calls so far, by method, and it ends with its standard input.

use std::io::{BufRead, Write};
use std::time::Duration;

use anyhow::Context;
use pitr_integration::FaultProxy;

fn main() -> anyhow::Result<()> {
    let mut numbers = std::env::args().skip(1).map(|word| word.parse::<u16>());
    let mut number = || {
        numbers
            .next()
            .context("UPSTREAM_PORT DELAY_MS")?
            .context("a number")
    };
    let proxy = FaultProxy::start(number()?);
    proxy.delay(Duration::from_millis(number()?.into()));
    let mut out = std::io::stdout();
    writeln!(out, "{}", proxy.port())?;
    out.flush()?;
    for line in std::io::stdin().lock().lines() {
        line?;
        writeln!(out, "{}", serde_json::to_string(&proxy.counts())?)?;
        out.flush()?;
    }
    Ok(())
}
