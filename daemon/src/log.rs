//! Logging to standard error, set up once before anything is done. Events of our own crates are shown at the
//! configured level, those of dependencies from `warn` on: what they say below that may quote what they send.

use std::io::IsTerminal;

use tracing_subscriber::EnvFilter;

use crate::config::{Log, LogFormat};

const OURS: [&str; 5] = [
    "pitrd",
    "pitr_tool",
    "pitr_archive",
    "pitr_mongodb",
    "pitr_postgres",
];

/// Installs the subscriber of this process. A second call changes nothing.
pub fn start(log: Log) {
    let level = log.level.as_str().to_ascii_lowercase();
    // The AWS crates warn with whole answers of services; what comes of it is in our errors.
    let others = "warn,aws_config=error,aws_runtime=error,aws_smithy_runtime=error".to_owned();
    let filter = OURS
        .iter()
        .fold(others, |all, name| format!("{all},{name}={level}"));
    let builder = tracing_subscriber::fmt()
        .with_env_filter(EnvFilter::new(filter))
        .with_writer(std::io::stderr)
        .with_ansi(std::io::stderr().is_terminal());
    let installed = match log.format {
        LogFormat::Text => builder.try_init(),
        LogFormat::Json => builder.json().flatten_event(true).try_init(),
    };
    if installed.is_err() {
        tracing::debug!("a log subscriber is installed already");
    }
}
