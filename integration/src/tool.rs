//! Runs `pitr-tool` as the servers' account.

use crate::process::{Finished, Process};
use crate::{Postgres, Program, Site, Version};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

/// How long a restored server may replay.
const REPLAY_LIMIT: Duration = Duration::from_secs(300);

/// `pitr-tool` with one configuration and one identity.
#[derive(Debug, Clone)]
pub struct Tool {
    site: Arc<Site>,
    configuration: PathBuf,
    identity: PathBuf,
}

impl Tool {
    /// For a configuration file and the identity that can read the archive.
    pub fn new(site: &Arc<Site>, configuration: &Path, identity: &Path) -> Tool {
        Tool {
            site: site.clone(),
            configuration: configuration.to_owned(),
            identity: identity.to_owned(),
        }
    }

    /// The same archive with another identity.
    pub fn with_identity(&self, identity: &Path) -> Tool {
        Tool::new(&self.site, &self.configuration, identity)
    }

    /// Runs `pitr-tool keygen` and returns the recipient it printed.
    pub fn keygen(site: &Arc<Site>, out: &Path) -> String {
        let mut command = site.command(&site.program(Program::PitrTool));
        command.args(["keygen", "--out"]).arg(out);
        let finished = Finished::run(&mut command).success("pitr-tool keygen");
        let recipient = finished
            .stdout
            .split_whitespace()
            .find(|word| word.starts_with("x25519:"));
        recipient.expect("keygen prints the recipient").to_owned()
    }

    /// The command line up to the arguments given.
    pub fn command<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Command {
        let mut command = self.site.command(&self.site.program(Program::PitrTool));
        command.arg("--config").arg(&self.configuration);
        command.arg("--identity").arg(&self.identity);
        command.args(arguments);
        command
    }

    /// Runs to the end.
    pub fn run<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S]) -> Finished {
        Finished::run(&mut self.command(arguments))
    }

    /// Starts and returns at once; the outputs go to `log`.
    pub fn spawn<S: AsRef<std::ffi::OsStr>>(&self, arguments: &[S], log: &str) -> Process {
        Process::spawn(self.command(arguments), &self.site.path(log))
    }

    /// `status --json`.
    #[track_caller]
    pub fn status(&self) -> serde_json::Value {
        let finished = self.run(&["status", "--json"]);
        serde_json::from_str(&finished.stdout)
            .unwrap_or_else(|error| panic!("status --json: {error}\n{}", finished.said()))
    }

    /// Takes a base backup.
    #[track_caller]
    pub fn backup(&self, arguments: &[&str]) -> Finished {
        let mut all = vec!["backup"];
        all.extend_from_slice(arguments);
        self.run(&all).success("pitr-tool backup")
    }

    /// `restore --to TARGET … --into DIRECTORY`.
    pub fn restore(&self, arguments: &[&str], into: &Path) -> Finished {
        let mut command = self.command(&["restore", "--to"]);
        command.args(arguments).arg("--into").arg(into);
        Finished::run(&mut command)
    }

    /// Restores into a new directory of the site, starts the server, waits until it stands at the target, and ends the
    /// recovery there.
    #[track_caller]
    pub fn restored(&self, version: Version, arguments: &[&str], name: &str) -> Postgres {
        let into = self.site.path(name);
        self.restore(arguments, &into)
            .success(&format!("restore --to {arguments:?}"));
        let mut server = Postgres::adopt(&self.site, version, name, into);
        server.launch();
        server.wait_recovered(REPLAY_LIMIT);
        server.session().end_recovery();
        server
    }
}
