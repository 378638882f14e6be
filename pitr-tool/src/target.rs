//! Where a recovery should end, as `plan` and `restore` take it from the command line. Which forms there are depends on the archive's
//! engine, which is known later.

use std::fmt;
use std::str::FromStr;

use pitr_mongodb::ClusterTime;
use pitr_postgres::Target;
use pitrd::exit::{Exit, Refusal};

/// `--to`, `--before` and `--timeline`.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    /// Recovery target: 2026-11-20T12:03:04.5+00:00 | latest | immediate; of PostgreSQL also lsn:0/3000028 | xid:7712 |
    /// name:before-migration; of MongoDB also ts:SECONDS.INCREMENT
    #[arg(long, value_name = "TARGET")]
    pub to: AnyTarget,
    /// End just before the target instead of with it
    #[arg(long)]
    pub before: bool,
    /// Timeline to recover along; by default the newest that holds the target
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeline: Option<u32>,
}

/// A target of any engine.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum AnyTarget {
    /// As PostgreSQL has them; its times, `latest` and `immediate` are MongoDB's as well.
    Postgres(Target),
    /// A cluster time.
    Ts(ClusterTime),
}

impl FromStr for AnyTarget {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        match text.strip_prefix("ts:") {
            Some(ts) => ts
                .parse()
                .map(Self::Ts)
                .map_err(|error: pitr_mongodb::NotAClusterTime| error.to_string()),
            None => text
                .parse()
                .map(Self::Postgres)
                .map_err(|error: pitr_postgres::TargetError| error.to_string()),
        }
    }
}

impl fmt::Display for AnyTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Postgres(target) => target.fmt(f),
            Self::Ts(ts) => write!(f, "ts:{ts}"),
        }
    }
}

impl TargetArgs {
    /// Refuses `--before` where there is nothing to end before.
    pub fn check(&self) -> anyhow::Result<()> {
        let whole = matches!(
            self.to,
            AnyTarget::Postgres(Target::Latest | Target::Immediate)
        );
        if self.before && whole {
            let message = format!(
                "--before needs one record to end before, {} is not one",
                self.to
            );
            let refusal = Refusal::new(Exit::Usage, message);
            return Err(refusal
                .hint("give a time, an lsn:, an xid: or a name:; of MongoDB a time or a ts:")
                .into());
        }
        Ok(())
    }

    /// The target of an archive of PostgreSQL.
    pub fn postgres(&self) -> anyhow::Result<&Target> {
        match &self.to {
            AnyTarget::Postgres(target) => Ok(target),
            AnyTarget::Ts(_) => Err(other_engine(
                &self.to,
                "PostgreSQL",
                "an lsn:, an xid: or a name:",
            )),
        }
    }

    /// The target of an archive of MongoDB.
    pub fn mongodb(&self) -> anyhow::Result<pitr_mongodb::Target> {
        if self.timeline.is_some() {
            let message = "--timeline belongs to PostgreSQL: a replica set has one history";
            return Err(Refusal::new(Exit::Usage, message).into());
        }
        match &self.to {
            AnyTarget::Ts(ts) => Ok(pitr_mongodb::Target::Ts(*ts)),
            AnyTarget::Postgres(Target::Time(unix_us)) => Ok(pitr_mongodb::Target::Time(*unix_us)),
            AnyTarget::Postgres(Target::Latest) => Ok(pitr_mongodb::Target::Latest),
            AnyTarget::Postgres(Target::Immediate) => Ok(pitr_mongodb::Target::Immediate),
            AnyTarget::Postgres(_) => {
                Err(other_engine(&self.to, "MongoDB", "a ts:SECONDS.INCREMENT"))
            }
        }
    }
}

fn other_engine(target: &AnyTarget, engine: &str, forms: &str) -> anyhow::Error {
    let message = format!("{target} is no target of an archive of {engine}");
    let hint = format!("give a time, latest, immediate, {forms}");
    Refusal::new(Exit::Usage, message).hint(hint).into()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn before_needs_something_to_end_before() {
        let args = |to: &str| TargetArgs {
            to: to.parse().unwrap(),
            before: true,
            timeline: None,
        };
        assert!(args("latest").check().is_err());
        assert!(args("immediate").check().is_err());
        assert!(args("xid:7712").check().is_ok());
        assert!(args("ts:5.1").check().is_ok());
    }

    #[test]
    fn a_target_of_the_other_engine_is_refused() {
        let args = |to: &str| TargetArgs {
            to: to.parse().unwrap(),
            before: false,
            timeline: None,
        };
        assert!(args("ts:5.1").postgres().is_err() && args("ts:5.1").mongodb().is_ok());
        assert!(
            args("lsn:0/3000028").mongodb().is_err() && args("lsn:0/3000028").postgres().is_ok()
        );
        for both in ["latest", "immediate", "2026-11-20T12:03:04+00:00"] {
            assert!(args(both).mongodb().is_ok() && args(both).postgres().is_ok());
        }
        assert!("ts:5".parse::<AnyTarget>().is_err());
    }
}
