//! Recovery targets as an operator writes them. The first step of a restore: text from the command line in, one of
//! PostgreSQL's kinds of recovery target out; the plan then turns it into a position.

use std::fmt;
use std::str::FromStr;

use jiff::{Timestamp, civil};

use crate::{Lsn, ParseError};

/// The longest name `pg_create_restore_point` takes, in bytes.
const NAME_BYTES_MAX: usize = 63;
/// Transaction ids below this one are PostgreSQL's own and never commit.
const XID_FIRST: u32 = 3;
const MICROSECOND_DIGITS: usize = 6;

/// Where a recovery should end.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Target {
    /// The last commit up to this moment, in microseconds since the Unix epoch.
    Time(i64),
    /// The end of what is archived.
    Latest,
    /// The first consistent moment of the base backup.
    Immediate,
    /// A position in the WAL.
    Lsn(Lsn),
    /// The commit of this transaction, by the low 32 bits of its id, as PostgreSQL compares them.
    Xid(u32),
    /// A restore point made with `pg_create_restore_point`.
    Name(String),
}

/// Text that is not a recovery target. Each message is one sentence that ends in an example.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum TargetError {
    /// A time of day without saying where on Earth.
    #[error("{given:?} has no offset from UTC; say which one is meant, for UTC write {corrected}")]
    NoOffset {
        /// What was given.
        given: String,
        /// The same moment read as UTC.
        corrected: String,
    },
    /// Something like a time that is none.
    #[error("{given:?} is not a time: {why}; write one as 2026-11-20T12:03:04.5+00:00")]
    Time {
        /// What was given.
        given: String,
        /// What is wrong with it.
        why: String,
    },
    /// A malformed LSN.
    #[error(transparent)]
    Lsn(#[from] ParseError),
    /// A number no ordinary transaction has.
    #[error("{given:?} is not a transaction id; write one as xid:7712")]
    Xid {
        /// What was given.
        given: String,
    },
    /// A name that no restore point can have.
    #[error(
        "a restore point's name has 1 to 63 bytes and no control characters; write name:before-migration"
    )]
    Name,
    /// None of the forms.
    #[error(
        "{given:?} is not a recovery target; write a time such as 2026-11-20T12:03:04.5+00:00, latest, immediate, \
         lsn:0/3000028, xid:7712 or name:before-migration"
    )]
    Unknown {
        /// What was given.
        given: String,
    },
}

impl FromStr for Target {
    type Err = TargetError;

    fn from_str(text: &str) -> Result<Self, TargetError> {
        match text.split_once(':') {
            _ if text == "latest" => Ok(Self::Latest),
            _ if text == "immediate" => Ok(Self::Immediate),
            Some(("lsn", lsn)) => Ok(Self::Lsn(lsn.parse()?)),
            Some(("xid", xid)) => parse_xid(xid),
            Some(("name", name)) => parse_name(name),
            _ if text.starts_with(|c: char| c.is_ascii_digit()) => parse_time(text),
            _ => Err(TargetError::Unknown { given: text.into() }),
        }
    }
}

impl fmt::Display for Target {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Time(unix_us) => match Timestamp::from_microsecond(*unix_us) {
                // Z and +00:00 differ in RFC 9557: Z says that the local offset is not known.
                Ok(time) => write!(f, "{}+00:00", time.to_string().trim_end_matches('Z')),
                Err(_) => write!(f, "{unix_us} microseconds since 1970"),
            },
            Self::Latest => f.write_str("latest"),
            Self::Immediate => f.write_str("immediate"),
            Self::Lsn(lsn) => write!(f, "lsn:{lsn}"),
            Self::Xid(xid) => write!(f, "xid:{xid}"),
            Self::Name(name) => write!(f, "name:{name}"),
        }
    }
}

fn parse_xid(text: &str) -> Result<Target, TargetError> {
    let digits = text.bytes().all(|byte| byte.is_ascii_digit());
    // pg_current_xact_id() shows 64 bits, an epoch above the 32 that WAL records hold.
    let low = text.parse::<u64>().ok().map(|xid| xid as u32);
    low.filter(|&xid| digits && xid >= XID_FIRST)
        .map(Target::Xid)
        .ok_or_else(|| TargetError::Xid { given: text.into() })
}

fn parse_name(name: &str) -> Result<Target, TargetError> {
    let fits = (1..=NAME_BYTES_MAX).contains(&name.len()) && !name.chars().any(char::is_control);
    fits.then(|| Target::Name(name.into()))
        .ok_or(TargetError::Name)
}

fn parse_time(text: &str) -> Result<Target, TargetError> {
    let wrong = |why: String| TargetError::Time {
        given: text.into(),
        why,
    };
    let allowed = |c: char| c.is_ascii_digit() || "-:.+ TtZz".contains(c);
    if let Some(other) = text.chars().find(|&c| !allowed(c)) {
        return Err(wrong(format!("it holds {other:?}")));
    }
    let fraction = text.split_once('.').map_or("", |(_, rest)| rest);
    let digits = fraction.bytes().take_while(u8::is_ascii_digit).count();
    if digits > MICROSECOND_DIGITS {
        return Err(wrong("PostgreSQL counts microseconds, six digits".into()));
    }
    match text.parse::<Timestamp>() {
        Ok(time) => Ok(Target::Time(time.as_microsecond())),
        Err(error) => Err(text.parse::<civil::DateTime>().map_or_else(
            |_| wrong(error.to_string()),
            |local| TargetError::NoOffset {
                given: text.into(),
                corrected: format!("{local}+00:00"),
            },
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn time_us(text: &str) -> i64 {
        match text.parse() {
            Ok(Target::Time(unix_us)) => unix_us,
            other => panic!("{text}: {other:?}"),
        }
    }

    #[test]
    fn one_moment_written_five_ways_is_one_target() {
        let expected = 1_795_176_184_500_000;
        for text in [
            "2026-11-20T12:03:04.5+00:00",
            "2026-11-20 12:03:04.5+00",
            "2026-11-20T12:03:04.500000Z",
            "2026-11-20T14:03:04.5+02:00",
            "2026-11-20 06:33:04.5-0530",
        ] {
            assert_eq!(time_us(text), expected, "{text}");
        }
    }

    #[test]
    fn microseconds_survive() {
        assert_eq!(time_us("2026-11-20T12:03:04.000001Z") % 1_000_000, 1);
    }

    #[test]
    fn a_time_without_an_offset_is_refused_with_a_corrected_example() {
        for (text, corrected) in [
            ("2026-11-20T12:03:04.5", "2026-11-20T12:03:04.5+00:00"),
            ("2026-11-20 12:03", "2026-11-20T12:03:00+00:00"),
            ("2026-11-20", "2026-11-20T00:00:00+00:00"),
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::NoOffset { .. }), "{error}");
            assert!(error.to_string().ends_with(corrected), "{error}");
            assert!(corrected.parse::<Target>().is_ok());
        }
    }

    #[test]
    fn what_is_not_a_time_is_refused() {
        for text in [
            "2026-13-20T12:03:04Z",
            "2026-02-30T12:03:04Z",
            "2026-11-20T25:03:04Z",
            "99999-01-01T00:00:00Z",
            "2026-11-20T12:03:04.1234567Z",
            "2026-11-20T12:03:04+99:00",
            "2026-11-20T12:03:04+01:00[Europe/Berlin]",
            "20:15",
            "1",
        ] {
            let error = text.parse::<Target>().unwrap_err();
            assert!(matches!(error, TargetError::Time { .. }), "{error}");
        }
    }

    #[test]
    fn every_target_reads_back_as_it_is_written() {
        for text in [
            "2026-11-20T12:03:04.5+00:00",
            "latest",
            "immediate",
            "lsn:0/3000028",
            "xid:7712",
            "name:before: the migration",
        ] {
            let target: Target = text.parse().unwrap();
            assert_eq!(target.to_string(), text);
        }
    }

    #[test]
    fn the_epoch_of_a_64_bit_transaction_id_is_dropped() {
        assert_eq!("xid:4294975008".parse(), Ok(Target::Xid(7712)));
    }

    #[test]
    fn what_is_no_target_is_refused_with_the_forms_there_are() {
        for text in [
            "",
            "now",
            "Latest",
            "lsn:",
            "lsn:3000028",
            "xid:",
            "xid:2",
            "xid:+5",
            "xid:0x10",
            "name:",
            "name:a\nb",
            "label:x",
        ] {
            assert!(text.parse::<Target>().is_err(), "{text:?}");
        }
        let long = format!("name:{}", "x".repeat(64));
        assert_eq!(long.parse::<Target>(), Err(TargetError::Name));
        let error = "now".parse::<Target>().unwrap_err().to_string();
        assert!(error.contains("immediate") && error.contains("name:before-migration"));
    }
}
