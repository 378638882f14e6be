//! One test's world: scratch directory, account, programs.

use std::fs;
use std::os::unix::fs::{PermissionsExt, chown};
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};

/// The programs under test.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Program {
    /// The daemon.
    Pitrd,
    /// The companion tool.
    PitrTool,
}

impl Program {
    fn name(self) -> &'static str {
        match self {
            Program::Pitrd => "pitrd",
            Program::PitrTool => "pitr-tool",
        }
    }
}

/// A scratch directory with everything that one test starts. Removed on drop, unless `PITRD_KEEP=1` or the test panicked.
#[derive(Debug)]
pub struct Site {
    root: PathBuf,
    /// The account for servers; `None` when the caller is not root and everything runs as the caller.
    account: Option<Account>,
}

#[derive(Debug, Clone, Copy)]
struct Account {
    uid: u32,
    gid: u32,
}

impl Site {
    /// A fresh directory under the system's temporary directory (or `PITRD_SCRATCH`).
    pub fn new(name: &str) -> Arc<Site> {
        static COUNT: AtomicU32 = AtomicU32::new(0);
        let parent =
            std::env::var_os("PITRD_SCRATCH").map_or_else(std::env::temp_dir, PathBuf::from);
        let count = COUNT.fetch_add(1, Ordering::Relaxed);
        // Short: the path of a unix socket ends after 107 bytes.
        let root = parent.join(format!("pitrd-{name}-{}-{count}", std::process::id()));
        fs::create_dir_all(&root).expect("create the scratch directory");
        fs::set_permissions(&root, fs::Permissions::from_mode(0o755))
            .expect("set the scratch directory's mode");
        let account = (user_id("-u", None) == 0).then(|| Account {
            uid: user_id("-u", Some("postgres")),
            gid: user_id("-g", Some("postgres")),
        });
        let site = Site { root, account };
        site.own(&site.root);
        Arc::new(site)
    }

    /// The scratch directory.
    pub fn root(&self) -> &Path {
        &self.root
    }

    /// A path inside the scratch directory.
    pub fn path(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }

    /// A new directory inside the scratch directory, mode 0700, owned by the servers' account.
    pub fn directory(&self, name: &str) -> PathBuf {
        let path = self.path(name);
        fs::create_dir_all(&path).expect("create a directory");
        fs::set_permissions(&path, fs::Permissions::from_mode(0o700))
            .expect("set a directory's mode");
        self.own(&path);
        path
    }

    /// Writes a file owned by the servers' account, with the given mode.
    pub fn write(&self, path: &Path, text: &str, mode: u32) {
        fs::write(path, text).unwrap_or_else(|error| panic!("write {}: {error}", path.display()));
        fs::set_permissions(path, fs::Permissions::from_mode(mode)).expect("set a file's mode");
        self.own(path);
    }

    /// Gives a path to the servers' account.
    pub fn own(&self, path: &Path) {
        if let Some(account) = self.account {
            chown(path, Some(account.uid), Some(account.gid))
                .expect("give a path to the servers' account");
        }
    }

    /// Whether mounts are possible: the caller is root.
    pub fn is_root(&self) -> bool {
        self.account.is_some()
    }

    /// A command that runs as the servers' account and is killed when the calling thread dies.
    pub fn command(&self, program: &Path) -> Command {
        let mut command = Command::new("setpriv");
        if let Some(account) = self.account {
            command
                .arg(format!("--reuid={}", account.uid))
                .arg(format!("--regid={}", account.gid))
                .arg("--clear-groups");
        }
        command.args(["--pdeathsig", "KILL", "--"]).arg(program);
        command.current_dir(&self.root);
        for (name, _) in std::env::vars_os() {
            if name.to_string_lossy().starts_with("PG") {
                command.env_remove(name);
            }
        }
        command.env("HOME", &self.root).env("LC_ALL", "C");
        command
    }

    /// Where this site's copy of a program lies; made at the first call. The checkout itself may be in a directory that
    /// only its owner can enter.
    pub fn program(&self, program: Program) -> PathBuf {
        let copy = self.path(program.name());
        if !copy.exists() {
            let built = built(program);
            let partial = self.path(&format!(
                ".{}-{:?}",
                program.name(),
                std::thread::current().id()
            ));
            // By a process of its own: were the copy open for writing here, a child that another thread starts now would
            // inherit it, and the kernel refuses to run a program that somebody has open for writing.
            let copied = std::process::Command::new("cp")
                .arg(&built)
                .arg(&partial)
                .status();
            assert!(
                copied.is_ok_and(|status| status.success()),
                "copy {}",
                built.display()
            );
            fs::set_permissions(&partial, fs::Permissions::from_mode(0o755))
                .expect("make the copy executable");
            fs::rename(&partial, &copy).expect("name the copy");
        }
        copy
    }
}

impl Drop for Site {
    fn drop(&mut self) {
        if std::env::var_os("PITRD_KEEP").is_some() || std::thread::panicking() {
            #[allow(clippy::print_stderr)]
            {
                eprintln!("kept for inspection: {}", self.root.display());
            }
            return;
        }
        if let Err(error) = fs::remove_dir_all(&self.root) {
            panic!("remove {}: {error}", self.root.display());
        }
    }
}

/// Where cargo put the program: `PITRD_BIN_DIR`, or beside the running test program.
fn built(program: Program) -> PathBuf {
    let directory = match std::env::var_os("PITRD_BIN_DIR") {
        Some(directory) => PathBuf::from(directory),
        None => {
            let running = std::env::current_exe().expect("find the running program");
            let parent = running.parent().expect("a program lies in a directory");
            match parent.file_name() {
                Some(name) if name == "deps" => parent
                    .parent()
                    .expect("deps lies in a directory")
                    .to_owned(),
                _ => parent.to_owned(),
            }
        }
    };
    let path = directory.join(program.name());
    assert!(
        path.exists(),
        "{} is missing: run `make build` (or `cargo build --workspace --bins`) first",
        path.display()
    );
    path
}

pub(crate) fn user_id(kind: &str, user: Option<&str>) -> u32 {
    let output = Command::new("id")
        .arg(kind)
        .args(user)
        .output()
        .expect("run id");
    assert!(
        output.status.success(),
        "there is no user `postgres` to run servers as: run `make deps`"
    );
    String::from_utf8_lossy(&output.stdout)
        .trim()
        .parse()
        .expect("id prints a number")
}
