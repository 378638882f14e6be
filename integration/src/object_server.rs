//! Object stores that speak S3, on loopback: two that honour conditional puts, and one that does not.

use std::io::{Read, Write};
use std::net::TcpStream;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::{Port, Process, Site, wait_until};

/// What every server takes as credentials.
pub const ACCESS_KEY: &str = "pitrd-test";
/// Goes with [`ACCESS_KEY`]; only rclone looks at it.
pub const SECRET_KEY: &str = "not-a-secret";
/// The bucket that every server has.
pub const BUCKET: &str = "archives";
const START_LIMIT: Duration = Duration::from_secs(120);

/// moto looks whether a key exists and puts it in two steps, with other calls in between: of puts at the same time several may
/// succeed. One call at a time it keeps the contract.
const ONE_AT_A_TIME: &str = "\
import sys, threading
from moto import server
lock, call = threading.Lock(), server.DomainDispatcherApplication.__call__
def alone(*arguments):
    with lock:
        return call(*arguments)
server.DomainDispatcherApplication.__call__ = alone
server.main(sys.argv[1:])
";

/// Which program.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Dialect {
    /// Conditions, checksums, versions and Object Lock as S3 has them; knows no permissions.
    Ministack,
    /// Conditions, one call at a time; takes wrong checksums.
    Moto,
    /// Checks signatures; ignores conditions.
    Rclone,
}

/// What a server answered.
#[derive(Debug, Clone)]
pub struct Answer {
    /// The HTTP status.
    pub status: u16,
    /// All of it, headers included.
    pub text: String,
}

/// A running object store with an empty bucket.
#[derive(Debug)]
pub struct ObjectServer {
    port: Port,
    site: Arc<Site>,
    _process: Process,
}

impl ObjectServer {
    /// Starts it and makes the bucket.
    pub fn start(site: &Arc<Site>, dialect: Dialect) -> ObjectServer {
        Self::start_with(site, dialect, false)
    }

    /// As [`Self::start`], with Object Lock switched on for the bucket.
    pub fn start_locking(site: &Arc<Site>, dialect: Dialect) -> ObjectServer {
        Self::start_with(site, dialect, true)
    }

    fn start_with(site: &Arc<Site>, dialect: Dialect, locking: bool) -> ObjectServer {
        let port = Port::reserve();
        let name = format!("store-{}", port.number());
        let home = site.path(&name);
        std::fs::create_dir_all(home.join(BUCKET)).expect("create the object store's directory");
        let process = Process::spawn(
            command(dialect, &home, port.number()),
            &site.path(&format!("{name}.log")),
        );
        let mut server = ObjectServer {
            port,
            site: site.clone(),
            _process: process,
        };
        server.wait_listening(dialect);
        if dialect != Dialect::Rclone {
            let lock = "x-amz-bucket-object-lock-enabled: true\r\n";
            let made = server.ask(
                "PUT",
                &format!("/{BUCKET}"),
                if locking { lock } else { "" },
            );
            assert_eq!(made.status, 200, "the bucket was not made: {}", made.text);
        }
        server.write_credentials();
        server
    }

    fn wait_listening(&mut self, dialect: Dialect) {
        let number = self.port.number();
        wait_until(&format!("{dialect:?} to listen"), START_LIMIT, || {
            if let Some(code) = self._process.ended() {
                panic!(
                    "{dialect:?} ended with {code}:\n{}",
                    self._process.log_tail()
                );
            }
            TcpStream::connect(("127.0.0.1", number)).is_ok()
        });
    }

    /// Sends a request without signature and without body.
    pub fn ask(&self, method: &str, path: &str, headers: &str) -> Answer {
        let port = self.port.number();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).expect("connect to the store");
        write!(
            stream,
            "{method} {path} HTTP/1.1\r\nHost: 127.0.0.1:{port}\r\nContent-Length: 0\r\nConnection: close\r\n{headers}\r\n"
        )
        .expect("send a request to the store");
        let mut answer = Vec::new();
        stream
            .read_to_end(&mut answer)
            .expect("read the store's answer");
        let text = String::from_utf8_lossy(&answer).into_owned();
        let status = text.split(' ').nth(1).and_then(|word| word.parse().ok());
        let status = status.unwrap_or_else(|| panic!("no HTTP answer: {text}"));
        Answer { status, text }
    }

    /// The profile `default` of the accounts that this site's programs run as.
    fn write_credentials(&self) {
        let text = format!(
            "[default]\naws_access_key_id = {ACCESS_KEY}\naws_secret_access_key = {SECRET_KEY}\n"
        );
        self.site.write(&self.credentials(), &text, 0o600);
    }

    /// The credentials file.
    pub fn credentials(&self) -> PathBuf {
        self.site.path("aws-credentials")
    }

    /// Where it listens.
    pub fn number(&self) -> u16 {
        self.port.number()
    }

    /// The URL of an archive in its bucket, with everything that is needed to reach it.
    pub fn url(&self, prefix: &str) -> String {
        url_through(self.number(), prefix, &self.credentials())
    }

    /// The same behind a proxy at another port.
    pub fn url_through(&self, port: u16, prefix: &str) -> String {
        url_through(port, prefix, &self.credentials())
    }
}

fn url_through(port: u16, prefix: &str, credentials: &Path) -> String {
    format!(
        "s3://{BUCKET}/{prefix}?endpoint=http://127.0.0.1:{port}&region=us-east-1&credentials_file={}",
        credentials.display()
    )
}

fn command(dialect: Dialect, home: &Path, port: u16) -> Command {
    let servers = std::env::var_os("PITRD_SERVERS")
        .map_or_else(|| PathBuf::from("/var/tmp/pitrd-servers"), PathBuf::from);
    let package = servers.join(match dialect {
        Dialect::Ministack => "ministack",
        Dialect::Moto => "moto",
        Dialect::Rclone => "rclone",
    });
    assert!(
        package.join("requirement").exists(),
        "{} is missing: run `make deps`",
        package.display()
    );
    let mut command = Command::new("setpriv");
    command
        .args(["--pdeathsig", "KILL", "--"])
        .current_dir(home);
    match dialect {
        Dialect::Ministack => command
            .args(["python3", "-m", "ministack"])
            .env("PYTHONPATH", &package)
            .env("GATEWAY_PORT", port.to_string())
            .env("BIND_HOST", "127.0.0.1")
            .env("SERVICES", "s3")
            .env("LOG_LEVEL", "WARNING")
            .env("TMPDIR", home),
        Dialect::Moto => command
            .args(["python3", "-c", ONE_AT_A_TIME, "-H", "127.0.0.1", "-p"])
            .arg(port.to_string())
            .env("PYTHONPATH", &package),
        Dialect::Rclone => command
            .arg(package.join("bin/rclone"))
            .args(["serve", "s3", "--config", "none", "--addr"])
            .arg(format!("127.0.0.1:{port}"))
            .arg(format!("--auth-key={ACCESS_KEY},{SECRET_KEY}"))
            .arg(home),
    };
    command
}
