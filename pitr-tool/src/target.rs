//! Where a recovery should end, as `plan` and `restore` take it from the command line.

use pitr_postgres::Target;
use pitrd::exit::{Exit, Refusal};

/// `--to`, `--before` and `--timeline`.
#[derive(Clone, Debug, clap::Args)]
pub struct TargetArgs {
    /// Recovery target: 2026-11-20T12:03:04.5+00:00 | latest | immediate | lsn:0/3000028 | xid:7712 |
    /// name:before-migration
    #[arg(long, value_name = "TARGET")]
    pub to: Target,
    /// End just before the target instead of with it
    #[arg(long)]
    pub before: bool,
    /// Timeline to recover along; by default the newest that holds the target
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub timeline: Option<u32>,
}

impl TargetArgs {
    /// Refuses `--before` where there is nothing to end before.
    pub fn check(&self) -> anyhow::Result<()> {
        if self.before && matches!(self.to, Target::Latest | Target::Immediate) {
            let message = format!(
                "--before needs one record to end before, {} is not one",
                self.to
            );
            let refusal = Refusal::new(Exit::Usage, message);
            return Err(refusal
                .hint("give a time, an lsn:, an xid: or a name:")
                .into());
        }
        Ok(())
    }
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
    }
}
