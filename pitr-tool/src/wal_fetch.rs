//! `pitr-tool wal-fetch`: PostgreSQL's `restore_command`. To the server every exit code from 1 to 125 means "there is no
//! such file, the log ends here": it then promotes. So 1 is said only of a file that provably does not exist, and
//! everything else that goes wrong, a mistyped option and a panic included, is 126.

use std::ffi::OsString;
use std::path::PathBuf;

use pitrd::exit::Exit;

/// The subcommand's name on the command line.
pub const NAME: &str = "wal-fetch";

/// Arguments of `wal-fetch`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Example, as restore writes it into the recovery settings:
  restore_command = 'pitr-tool --archive file:///backup/orders --identity orders.identity wal-fetch %f %p'

Exit codes: 0 fetched; 1 there is provably no such file; 126 anything else, and the server stops.")]
pub struct Args {
    /// The file's name: %f
    pub name: String,
    /// Where to put it: %p
    pub path: PathBuf,
}

/// Whether this process was started as `wal-fetch`, by the arguments after its own name. A value that reads the same
/// is taken for it: too careful is harmless.
pub fn is_asked(arguments: impl IntoIterator<Item = OsString>) -> bool {
    arguments
        .into_iter()
        .skip(1)
        .any(|argument| argument == NAME)
}

/// Makes a panic anywhere end the process with 126 instead of Rust's 101.
pub fn end_fatally_on_panic() {
    let report = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        report(panic);
        std::process::exit(Exit::Fatal as i32);
    }));
}

/// The exit code that PostgreSQL may see for `exit`.
#[must_use]
pub fn exit(exit: Exit) -> Exit {
    match exit {
        Exit::Done | Exit::No => exit,
        _ => Exit::Fatal,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_done_and_provably_not_there_pass_as_they_are() {
        assert_eq!(exit(Exit::Done), Exit::Done);
        assert_eq!(exit(Exit::No), Exit::No);
        for other in [
            Exit::Usage,
            Exit::Target,
            Exit::Keys,
            Exit::Fenced,
            Exit::Unavailable,
            Exit::Damage,
        ] {
            assert_eq!(exit(other), Exit::Fatal);
        }
    }

    #[test]
    fn it_is_recognised_wherever_the_subcommand_stands() {
        let asked = |line: &str| is_asked(line.split(' ').map(OsString::from));
        assert!(asked(
            "pitr-tool --archive file:///a wal-fetch 00000002.history p"
        ));
        assert!(!asked("pitr-tool status"));
        assert!(!asked("wal-fetch status"));
    }
}
