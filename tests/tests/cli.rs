//! The command line as a script sees it: exit codes, sentences, examples. Runs the built programs; needs no server.

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};

use tempfile::TempDir;

/// The program, beside the running test.
fn program(name: &str) -> PathBuf {
    let test = std::env::current_exe().expect("find the running test");
    let directory = test
        .parent()
        .and_then(Path::parent)
        .expect("a test lies in target/*/deps");
    let path = directory.join(name);
    assert!(
        path.exists(),
        "{} is missing: run `cargo build --workspace --bins` first",
        path.display()
    );
    path
}

fn run(name: &str, arguments: &[&str]) -> Output {
    let mut command = Command::new(program(name));
    command.args(arguments).env_remove("PITRD_CONFIG");
    command.output().expect("run the program")
}

fn tool(arguments: &[&str]) -> Output {
    run("pitr-tool", arguments)
}

#[track_caller]
fn assert_ends(output: &Output, code: i32) {
    assert_eq!(
        output.status.code(),
        Some(code),
        "{}{}",
        said(output),
        text(&output.stdout)
    );
}

fn said(output: &Output) -> String {
    text(&output.stderr)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8(bytes.to_vec()).expect("output is UTF-8")
}

/// A directory with an identity and a configuration for it.
struct Home {
    directory: TempDir,
    recipient: String,
}

impl Home {
    fn new() -> Self {
        let directory = tempfile::tempdir().expect("make a directory");
        let identity = directory.path().join("identity");
        let made = tool(&["keygen", "--out", identity.to_str().unwrap()]);
        assert_ends(&made, 0);
        Self {
            directory,
            recipient: text(&made.stdout).trim().to_owned(),
        }
    }

    fn path(&self, name: &str) -> String {
        self.directory
            .path()
            .join(name)
            .to_str()
            .unwrap()
            .to_owned()
    }

    /// Writes `orders.toml` with `more` after the smallest valid configuration; returns its path.
    fn configure(&self, more: &str) -> String {
        let path = self.path("orders.toml");
        let config = format!(
            "[archive]\nurl = \"file://{}\"\n[encryption]\nrecipients = [\"{}\"]\n[source.postgres]\n\
             connection = \"host=/nowhere user=pitrd\"\n{more}",
            self.path("archive"),
            self.recipient
        );
        fs::write(&path, config).expect("write the configuration");
        path
    }
}

#[test]
fn keygen_prints_the_recipient_and_writes_a_file_only_its_owner_can_read() {
    let home = Home::new();
    assert!(home.recipient.starts_with("x25519:"), "{}", home.recipient);
    let mode = fs::metadata(home.path("identity"))
        .unwrap()
        .permissions()
        .mode();
    assert_eq!(mode & 0o777, 0o600);
}

#[test]
fn keygen_never_overwrites_an_identity() {
    let home = Home::new();
    let before = fs::read(home.path("identity")).unwrap();
    assert_ends(&tool(&["keygen", "--out", &home.path("identity")]), 4);
    assert_eq!(fs::read(home.path("identity")).unwrap(), before);
}

#[test]
fn keygen_prints_no_secret() {
    let home = Home::new();
    let made = tool(&["keygen", "--out", &home.path("second")]);
    let file = fs::read_to_string(home.path("second")).unwrap();
    let secret = file.lines().find(|line| !line.starts_with('#')).unwrap();
    let secret = secret.rsplit(':').next().unwrap();
    assert!(secret.len() > 40);
    assert!(!text(&made.stdout).contains(secret) && !said(&made).contains(secret));
}

#[test]
fn an_unknown_key_is_refused_with_its_line_and_the_nearest_known_key() {
    let home = Home::new();
    let config = home.configure("[segment]\nlingr = \"1s\"\n");
    let output = run("pitrd", &["--config", &config, "--check"]);
    assert_ends(&output, 1);
    let expected = format!(
        "fail  configuration: {config}:8: unknown key \"lingr\" in [segment]; the nearest known key is \"linger\""
    );
    assert!(
        text(&output.stdout).starts_with(&expected),
        "{}",
        text(&output.stdout)
    );
}

#[test]
fn the_check_says_one_line_per_finding_and_fails_where_something_is_missing() {
    let home = Home::new();
    let output = run("pitrd", &["--config", &home.configure(""), "--check"]);
    assert_ends(&output, 1);
    let stdout = text(&output.stdout);
    for line in stdout.lines() {
        assert!(
            ["ok    ", "warn  ", "fail  "]
                .iter()
                .any(|level| line.starts_with(level)),
            "{line}"
        );
    }
    assert!(stdout.contains("ok    configuration: "), "{stdout}");
    assert!(
        stdout.contains("fail  signing key: ") && stdout.contains("pitr-tool init"),
        "{stdout}"
    );
}

#[test]
fn a_password_in_the_configuration_reaches_no_output() {
    let home = Home::new();
    let config = home.configure("");
    let with_password = fs::read_to_string(&config)
        .unwrap()
        .replace("user=pitrd", "user=pitrd password=canary-51c3");
    fs::write(&config, with_password).unwrap();
    let output = run("pitrd", &["--config", &config, "--check"]);
    let everything = text(&output.stdout) + &said(&output);
    assert!(
        everything.contains("holds a password and others can read it"),
        "{everything}"
    );
    assert!(!everything.contains("canary-51c3"), "{everything}");
}

#[test]
fn a_command_line_that_is_wrong_ends_in_2() {
    assert_ends(&tool(&["keygen"]), 2);
    assert_ends(&tool(&["no-such-command"]), 2);
    assert_ends(&tool(&["keygen", "--out", "a", "--no-such-option"]), 2);
    assert_ends(&run("pitrd", &[]), 2);
}

#[test]
fn wal_fetch_that_is_called_wrongly_does_not_tell_the_server_that_the_log_ends() {
    assert_ends(&tool(&["wal-fetch"]), 126);
    assert_ends(
        &tool(&[
            "wal-fetch",
            "000000010000000000000001",
            "p",
            "--no-such-option",
        ]),
        126,
    );
}

#[test]
fn help_has_examples_and_exit_codes() {
    for name in ["pitr-tool", "pitrd"] {
        let output = run(name, &["--help"]);
        assert_ends(&output, 0);
        let help = text(&output.stdout);
        assert!(
            help.contains("Examples:") && help.contains("Exit codes:"),
            "{help}"
        );
    }
}

#[test]
fn completions_and_manual_pages_are_made_from_the_command_line_itself() {
    let home = Home::new();
    for shell in ["bash", "zsh", "fish"] {
        let output = tool(&["completions", shell]);
        assert_ends(&output, 0);
        assert!(text(&output.stdout).contains("keygen"));
    }
    assert_ends(&tool(&["man", "--out", &home.path("man")]), 0);
    let page = fs::read_to_string(home.path("man/pitr-tool-keygen.1")).unwrap();
    assert!(page.contains("Examples"));
    let page = fs::read_to_string(home.path("man/pitrd.1")).unwrap();
    assert!(page.contains("accept"), "{page}");
    let output = tool(&["completions", "bash", "--pitrd"]);
    assert_ends(&output, 0);
    assert!(text(&output.stdout).contains("accept-break"));
}

#[test]
fn a_key_that_is_missing_wrong_or_in_the_way_is_hinted_at() {
    let home = Home::new();
    let (file, none) = (home.path("some.identity"), home.path("none"));
    assert_ends(&tool(&["keygen", "--symmetric", "--out", &file]), 0);
    let again = tool(&["keygen", "--out", &file]);
    let archive = format!("file://{}", home.path("archive"));
    let status = |identity| {
        let place = ["--archive", &archive, "--identity", identity];
        tool(&[&place[..], &["plan", "--to", "latest"]].concat())
    };
    for (output, hint) in [
        (again, "hint: a key is never overwritten"),
        (status(&none), "hint: pitr-tool keygen --out FILE makes"),
        (status(&file), "hint: --identity takes the file"),
    ] {
        assert_ends(&output, 4);
        assert!(said(&output).contains(hint), "{}", said(&output));
    }
}

#[test]
fn a_local_time_is_refused_with_the_offset_it_lacks() {
    let output = tool(&["plan", "--to", "2026-11-20T12:03:04.5"]);
    assert_ends(&output, 2);
    let said = said(&output);
    assert!(
        said.contains("no offset") && said.contains("2026-11-20T12:03:04.5+00:00"),
        "{said}"
    );
}

#[test]
fn a_target_that_has_no_before_is_refused() {
    let home = Home::new();
    let config = home.configure("");
    for target in ["latest", "immediate"] {
        let output = tool(&["--config", &config, "plan", "--to", target, "--before"]);
        assert_ends(&output, 2);
        assert!(said(&output).contains("hint: "), "{}", said(&output));
    }
}

#[test]
fn a_command_that_reads_what_is_sealed_asks_for_a_key() {
    let home = Home::new();
    let output = tool(&["--config", &home.configure(""), "plan", "--to", "latest"]);
    assert_ends(&output, 4);
    assert!(
        said(&output).contains("--identity FILE"),
        "{}",
        said(&output)
    );
}

#[test]
fn an_archive_that_is_not_there_may_be_there_later() {
    let home = Home::new();
    let url = format!("file://{}", home.path("archive"));
    for command in ["status", "verify"] {
        let output = tool(&["--archive", &url, command]);
        assert_ends(&output, 6);
        assert!(
            said(&output).contains("holds no archive"),
            "{}",
            said(&output)
        );
    }
}

#[test]
fn no_archive_at_all_is_a_usage_error() {
    assert_ends(&tool(&["status"]), 2);
    assert_ends(&tool(&["--archive", "/not/a/url", "status"]), 2);
    assert_ends(&tool(&["--archive", "s3://Bucket/prefix", "status"]), 2);
    let both = ["--archive", "file:///a", "--config", "b", "status"];
    assert_ends(&tool(&both), 2);
}
