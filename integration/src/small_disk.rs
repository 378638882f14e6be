//! A file system of a chosen size, for tests that fill it.

use crate::Site;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A mounted tmpfs. Dropping it unmounts it.
#[derive(Debug)]
pub struct SmallDisk {
    path: PathBuf,
}

impl SmallDisk {
    /// Mounts `megabytes` at a directory of the site. Panics when mounting is not possible: a test of a full disk
    /// without one would prove nothing.
    pub fn mount(site: &Site, name: &str, megabytes: u32) -> SmallDisk {
        let path = site.directory(name);
        run(&format!("size={megabytes}m"), Some(&path));
        site.own(&path);
        SmallDisk { path }
    }

    /// Gives it another size; its contents stay.
    pub fn resize(&self, megabytes: u32) {
        run(&format!("remount,size={megabytes}m"), Some(&self.path));
    }

    /// Where it is mounted.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// Bytes that can still be written.
    pub fn free_bytes(&self) -> u64 {
        let output = Command::new("df")
            .args(["--output=avail", "-B1"])
            .arg(&self.path)
            .output();
        let text = String::from_utf8_lossy(&output.expect("run df").stdout).into_owned();
        text.lines()
            .last()
            .and_then(|line| line.trim().parse().ok())
            .expect("df prints a number")
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let mut command = as_root("umount");
        let unmounted = command
            .arg("--lazy")
            .arg(&self.path)
            .status()
            .is_ok_and(|status| status.success());
        if !unmounted && !std::thread::panicking() {
            panic!("could not unmount {}", self.path.display());
        }
    }
}

fn run(options: &str, path: Option<&Path>) {
    let mut command = as_root("mount");
    command
        .args(["-t", "tmpfs", "-o", options, "tmpfs"])
        .args(path);
    let said = match command.output() {
        Ok(output) if output.status.success() => return,
        Ok(output) => String::from_utf8_lossy(&output.stderr).into_owned(),
        Err(error) => error.to_string(),
    };
    panic!(
        "mount a tmpfs ({options}): {said}\nfix: run the tests as root, or allow `sudo -n mount`"
    );
}

fn as_root(program: &str) -> Command {
    let root = Command::new("id")
        .arg("-u")
        .output()
        .is_ok_and(|output| output.stdout == b"0\n");
    if root {
        return Command::new(program);
    }
    let mut command = Command::new("sudo");
    command.arg("-n").arg(program);
    command
}
