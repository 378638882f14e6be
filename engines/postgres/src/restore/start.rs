//! Running the restored server to its target. How far it is, and whether it stands there, is read from its log: that needs no role,
//! no password and no rule in `pg_hba.conf`.

use std::fs::{self, File};
use std::io::{self, Read, Seek, SeekFrom};
use std::net::TcpListener;
use std::os::unix::fs::OpenOptionsExt;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use super::error::RestoreError;
use crate::{Lsn, TimelineId, WalFileName};

const LOOK_EVERY: Duration = Duration::from_millis(20);
const LOG: &str = "pitrd.start.log";
/// A unix socket's path ends after 107 bytes; its name takes 20 of them.
const SOCKET_DIRECTORY_BYTES_MAX: usize = 87;
/// What the log is read by: its place, its language, and that it says what we look for.
const SETTINGS: [&str; 7] = [
    "lc_messages=C",
    "log_destination=stderr",
    "logging_collector=off",
    "log_min_messages=warning",
    "log_line_prefix=%m [%p] ",
    "listen_addresses=",
    "unix_socket_permissions=0700",
];

/// Where a server is that was started.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum State {
    /// Stands at its target and answers queries.
    Paused,
    /// Ended recovery and takes writes.
    Promoted,
    /// Reached its target and shut down.
    ShutDown,
}

/// A server that stands at its target.
#[derive(Clone, PartialEq, Debug)]
pub struct Started {
    /// What it does now.
    pub state: State,
    /// Seconds from its start until then.
    pub seconds: f64,
    /// Directory of its unix socket.
    pub socket_directory: PathBuf,
    /// Its port.
    pub port: u16,
    /// Where it writes its log.
    pub log: PathBuf,
}

/// Refuses what cannot work, before anything is fetched.
pub fn check_start(pg_bin: &Path) -> Result<(), RestoreError> {
    if rustix::process::geteuid().is_root() {
        let reason = "PostgreSQL refuses to run as root; run this command as the user that the server shall run as, often postgres";
        return Err(RestoreError::Request(reason.into()));
    }
    let program = pg_bin.join("postgres");
    if program.is_file() {
        return Ok(());
    }
    Err(RestoreError::Request(format!(
        "{} does not exist; --pg-bin is the directory of the server's programs",
        program.display()
    )))
}

/// Starts the server in `data` and waits until it stands at its target. `progress` hears the LSN up to which WAL was handed to it.
/// The server goes on running, on a unix socket of its own, when this returns.
///
/// # Errors
/// The server ended otherwise; its last words are told.
pub async fn start(
    data: &Path,
    pg_bin: &Path,
    wal_segment_bytes: u64,
    progress: impl Fn(Lsn),
) -> Result<Started, RestoreError> {
    let start = Instant::now();
    let log = data.join(LOG);
    let socket_directory = match data.as_os_str().len() {
        0..=SOCKET_DIRECTORY_BYTES_MAX => data.to_path_buf(),
        _ => std::env::temp_dir(),
    };
    let port = free_port().map_err(RestoreError::file("find a free port for", data))?;
    let mut server = spawn(data, pg_bin, &socket_directory, port, &log)?;
    let mut follower = Follower::new(&log)?;
    let mut watch = Watch::default();
    let state = loop {
        // Looked at before the log is read: a server that ended has written all of it.
        let ended = server
            .try_wait()
            .map_err(RestoreError::file("wait for the server in", data))?;
        for line in follower.lines()? {
            if let Some(name) = watch.line(&line)
                && let Ok(WalFileName::Segment(TimelineId(_), at)) =
                    WalFileName::parse(&name, wal_segment_bytes)
            {
                progress(at);
            }
        }
        match (watch.state(), ended) {
            (Some(state), None) if state != State::ShutDown => break state,
            (Some(State::ShutDown), Some(_)) => break State::ShutDown,
            (_, Some(status)) => {
                let said = watch
                    .last_words
                    .unwrap_or_else(|| format!("the server ended with {status}"));
                let said = format!("{said}; its log is {}", log.display());
                return Err(RestoreError::Program {
                    program: "postgres",
                    said,
                });
            }
            (_, None) => tokio::time::sleep(LOOK_EVERY).await,
        }
    };
    Ok(Started {
        state,
        seconds: start.elapsed().as_secs_f64(),
        socket_directory,
        port,
        log,
    })
}

/// A port that nobody listens on: it only names the socket.
fn free_port() -> io::Result<u16> {
    Ok(TcpListener::bind(("127.0.0.1", 0))?.local_addr()?.port())
}

fn spawn(
    data: &Path,
    pg_bin: &Path,
    socket: &Path,
    port: u16,
    log: &Path,
) -> Result<Child, RestoreError> {
    let mut options = fs::OpenOptions::new();
    let file = options
        .create(true)
        .write(true)
        .truncate(true)
        .mode(0o600)
        .open(log);
    let file = file.map_err(RestoreError::file("create", log))?;
    let errors = file.try_clone().map_err(RestoreError::file("open", log))?;
    let program = pg_bin.join("postgres");
    let mut command = Command::new(&program);
    command.arg("-D").arg(data).arg("-p").arg(port.to_string());
    for setting in SETTINGS {
        command.args(["-c", setting]);
    }
    command.arg("-k").arg(socket);
    // It goes on when this command ends, or is interrupted at a terminal.
    command.process_group(0);
    command.stdin(Stdio::null()).stdout(file).stderr(errors);
    command.spawn().map_err(|source| RestoreError::File {
        doing: "run",
        path: program,
        source,
    })
}

/// Reads a file as it grows.
struct Follower {
    file: File,
    path: PathBuf,
    rest: Vec<u8>,
}

impl Follower {
    fn new(path: &Path) -> Result<Self, RestoreError> {
        let mut file = File::open(path).map_err(RestoreError::file("read", path))?;
        file.seek(SeekFrom::Start(0))
            .map_err(RestoreError::file("read", path))?;
        Ok(Self {
            file,
            path: path.into(),
            rest: Vec::new(),
        })
    }

    /// The lines that have become whole since the last call.
    fn lines(&mut self) -> Result<Vec<String>, RestoreError> {
        self.file
            .read_to_end(&mut self.rest)
            .map_err(RestoreError::file("read", &self.path))?;
        let Some(end) = self.rest.iter().rposition(|&byte| byte == b'\n') else {
            return Ok(Vec::new());
        };
        let rest = self.rest.split_off(end + 1);
        let whole = std::mem::replace(&mut self.rest, rest);
        Ok(String::from_utf8_lossy(&whole)
            .lines()
            .map(str::to_owned)
            .collect())
    }
}

/// What the log has told so far.
#[derive(Default)]
struct Watch {
    paused: bool,
    ready: bool,
    at_target: bool,
    recovered: bool,
    /// The last error that ended a process.
    last_words: Option<String>,
    /// What `wal-fetch` said last: the server only knows that it failed.
    fetch_failed: Option<String>,
}

impl Watch {
    /// Takes a line. The WAL file that it says was fetched, if it does.
    fn line(&mut self, line: &str) -> Option<String> {
        if let Some(said) = line.strip_prefix("error: ") {
            self.fetch_failed = Some(said.to_owned());
        }
        let (level, text) = message(line)?;
        match level {
            "FATAL" | "PANIC" if !text.starts_with("the database system is ") => {
                let unfetched = text.starts_with("could not restore file ");
                let fetch = self.fetch_failed.take().filter(|_| unfetched);
                self.last_words = Some(match fetch {
                    Some(said) => format!("{text}: {said}"),
                    None => text.to_owned(),
                });
            }
            "LOG" => {
                self.paused |= text.starts_with("pausing at the end of recovery");
                self.at_target |= text.starts_with("shutdown at recovery target");
                self.recovered |= text.starts_with("archive recovery complete");
                self.ready |= text.starts_with("database system is ready to accept ");
                let name = text.strip_prefix("restored log file \"")?;
                return name.split('"').next().map(str::to_owned);
            }
            _ => {}
        }
        None
    }

    fn state(&self) -> Option<State> {
        if self.at_target {
            Some(State::ShutDown)
        } else if self.recovered && self.ready {
            Some(State::Promoted)
        } else if self.paused {
            Some(State::Paused)
        } else {
            None
        }
    }
}

/// Level and text of a line of the log, behind our prefix of time and process.
fn message(line: &str) -> Option<(&str, &str)> {
    let (_, said) = line.split_once("] ")?;
    let (level, text) = said.split_once(':')?;
    Some((level, text.trim_start()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn watch(lines: &[&str]) -> (Watch, Vec<String>) {
        let mut watch = Watch::default();
        let named = lines
            .iter()
            .filter_map(|line| watch.line(&format!("2026-11-21 04:46:56.137 UTC [880] {line}")));
        let named = named.collect();
        (watch, named)
    }

    #[test]
    fn a_log_says_where_the_server_stands() {
        let (paused, named) = watch(&[
            "LOG:  restored log file \"00000001000000000000003E\" from archive",
            "LOG:  database system is ready to accept read-only connections",
            "LOG:  recovery stopping after WAL location (LSN) \"0/3E6BC558\"",
            "LOG:  pausing at the end of recovery",
        ]);
        assert_eq!(paused.state(), Some(State::Paused));
        assert_eq!(named, ["00000001000000000000003E"]);
        let (promoted, _) = watch(&[
            "LOG:  archive recovery complete",
            "LOG:  database system is ready to accept connections",
        ]);
        assert_eq!(promoted.state(), Some(State::Promoted));
        let (down, _) = watch(&["LOG:  shutdown at recovery target"]);
        assert_eq!(down.state(), Some(State::ShutDown));
    }

    #[test]
    fn a_server_under_way_stands_nowhere_and_its_last_words_are_kept() {
        let (under_way, _) =
            watch(&["LOG:  database system is ready to accept read-only connections"]);
        assert_eq!(under_way.state(), None);
        let (failed, _) = watch(&[
            "FATAL:  recovery ended before configured recovery target was reached",
            "FATAL:  the database system is starting up",
            "LOG:  startup process (PID 7) exited with exit code 1",
        ]);
        assert_eq!(failed.state(), None);
        let said = failed.last_words.unwrap();
        assert_eq!(
            said,
            "recovery ended before configured recovery target was reached"
        );
    }

    #[test]
    fn why_a_file_could_not_be_fetched_is_told() {
        let mut watch = Watch::default();
        watch.line(
            "error: object log/00000001/0000000000000008: chunk 2 at offset 33176 is damaged",
        );
        watch.line(
            "2026-11-21 04:46:56.137 UTC [880] FATAL:  could not restore file \"4\" from archive: command not executable",
        );
        let said = watch.last_words.unwrap();
        assert!(
            said.ends_with("chunk 2 at offset 33176 is damaged"),
            "{said}"
        );
    }

    #[test]
    fn a_line_is_read_when_it_is_whole() {
        let scratch = tempfile::tempdir().unwrap();
        let path = scratch.path().join("log");
        fs::write(&path, "one\ntw").unwrap();
        let mut follower = Follower::new(&path).unwrap();
        assert_eq!(follower.lines().unwrap(), ["one"]);
        let mut file = fs::OpenOptions::new().append(true).open(&path).unwrap();
        io::Write::write_all(&mut file, b"o\nthree").unwrap();
        assert_eq!(follower.lines().unwrap(), ["two"]);
        assert!(follower.lines().unwrap().is_empty());
    }
}
