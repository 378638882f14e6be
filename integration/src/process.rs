//! A child process that is always stopped by its own id, with its output in a file.

use std::fs::{self, File, OpenOptions};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::time::{Duration, Instant};

/// What tests send.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Signal {
    /// Ask to end.
    Term,
    /// Fast shutdown of PostgreSQL.
    Int,
    /// Immediate shutdown of PostgreSQL.
    Quit,
    /// End without warning.
    Kill,
    /// Freeze.
    Stop,
    /// Go on.
    Cont,
}

impl Signal {
    fn name(self) -> &'static str {
        match self {
            Signal::Term => "TERM",
            Signal::Int => "INT",
            Signal::Quit => "QUIT",
            Signal::Kill => "KILL",
            Signal::Stop => "STOP",
            Signal::Cont => "CONT",
        }
    }
}

/// What a command that ran to its end left.
#[derive(Debug, Clone)]
pub struct Finished {
    /// The exit code; 128 + signal when it was killed.
    pub code: i32,
    /// Its standard output.
    pub stdout: String,
    /// Its standard error.
    pub stderr: String,
    /// How long it ran.
    pub took: Duration,
}

impl Finished {
    /// Runs a command to its end.
    pub fn run(command: &mut Command) -> Finished {
        let start = Instant::now();
        let output = command
            .stdin(Stdio::null())
            .output()
            .unwrap_or_else(|error| panic!("run {command:?}: {error}"));
        Finished {
            code: code(output.status),
            stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
            stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
            took: start.elapsed(),
        }
    }

    /// Panics with everything the command said, unless it succeeded.
    #[track_caller]
    pub fn success(self, what: &str) -> Finished {
        assert!(
            self.code == 0,
            "{what}: exit {}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Panics unless the command ended with `code`.
    #[track_caller]
    pub fn exits(self, code: i32, what: &str) -> Finished {
        assert!(
            self.code == code,
            "{what}: exit {}, wanted {code}\n{}\n{}",
            self.code,
            self.stdout,
            self.stderr
        );
        self
    }

    /// Both outputs.
    pub fn said(&self) -> String {
        format!("{}\n{}", self.stdout, self.stderr)
    }
}

fn code(status: ExitStatus) -> i32 {
    use std::os::unix::process::ExitStatusExt;
    status
        .code()
        .unwrap_or_else(|| 128 + status.signal().unwrap_or(0))
}

/// A running child. Dropping it kills it.
#[derive(Debug)]
pub struct Process {
    child: Child,
    log: PathBuf,
}

impl Process {
    /// Starts a command with both outputs appended to `log`.
    pub fn spawn(mut command: Command, log: &Path) -> Process {
        let file: File = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .unwrap_or_else(|error| panic!("open {}: {error}", log.display()));
        let child = command
            .stdin(Stdio::null())
            .stdout(file.try_clone().expect("clone the log's handle"))
            .stderr(file)
            .spawn()
            .unwrap_or_else(|error| panic!("start {command:?}: {error}"));
        Process {
            child,
            log: log.to_owned(),
        }
    }

    /// The process id.
    pub fn id(&self) -> u32 {
        self.child.id()
    }

    /// Sends a signal to this process only.
    pub fn signal(&self, signal: Signal) {
        send(self.child.id(), signal);
    }

    /// The exit code, when the process has ended.
    pub fn ended(&mut self) -> Option<i32> {
        self.child
            .try_wait()
            .expect("ask for a child's state")
            .map(code)
    }

    /// Waits for the end and returns the exit code; panics with the log's end after `limit`.
    #[track_caller]
    pub fn wait(&mut self, limit: Duration) -> i32 {
        let start = Instant::now();
        loop {
            if let Some(code) = self.ended() {
                return code;
            }
            assert!(
                start.elapsed() < limit,
                "process {} did not end within {limit:?}; its log ends with:\n{}",
                self.id(),
                self.log_tail()
            );
            std::thread::sleep(Duration::from_millis(10));
        }
    }

    /// Everything it has printed, and its predecessors with the same log.
    pub fn log(&self) -> String {
        String::from_utf8_lossy(&fs::read(&self.log).unwrap_or_default()).into_owned()
    }

    /// The last lines of the log.
    pub fn log_tail(&self) -> String {
        tail(&self.log())
    }

    /// The greatest resident memory so far, in bytes.
    pub fn peak_resident_bytes(&self) -> u64 {
        let status = fs::read_to_string(format!("/proc/{}/status", self.id())).unwrap_or_default();
        let line = status.lines().find(|line| line.starts_with("VmHWM:"));
        let kib = line.and_then(|line| line.split_whitespace().nth(1)?.parse::<u64>().ok());
        kib.unwrap_or(0) * 1024
    }
}

impl Drop for Process {
    fn drop(&mut self) {
        if self.child.try_wait().ok().flatten().is_none() {
            // A frozen process dies only when it may go on.
            let _ = self.child.kill();
            let _ = self.child.wait();
        }
    }
}

/// The last forty lines of a text.
pub(crate) fn tail(text: &str) -> String {
    let lines: Vec<&str> = text.lines().collect();
    lines[lines.len().saturating_sub(40)..].join("\n")
}

pub(crate) fn send(id: u32, signal: Signal) {
    let status = Command::new("kill")
        .args(["-s", signal.name(), "--", &id.to_string()])
        .stderr(Stdio::null())
        .status()
        .expect("run kill");
    // A process that has just ended by itself is no error: the caller looks at its exit code.
    let _ = status;
}
