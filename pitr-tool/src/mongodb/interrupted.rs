//! What an interrupted restore of an archive of MongoDB says of itself: the same command makes the state that it began to make, however
//! much was archived since. So nothing of it is left that a later state would not have.

use std::path::Path;

use anyhow::Context;
use pitr_archive::Archive;
use pitr_mongodb::restore::{Load, Selection, interrupted_in, interrupted_on};
use pitr_mongodb::{ClusterTime, Target};

use super::restore::classify;

/// Between what was asked for and where it ends, in a mark.
const UP_TO: &str = " up to ";

/// Which restore this is.
#[derive(Debug)]
pub(super) struct Job {
    asked: String,
    begun: Option<ClusterTime>,
}

impl Job {
    /// Looks whether one that was asked for the same lies in `directory`, or in the deployment of `load`, half done.
    pub(super) async fn find(
        archive: &Archive,
        (target, before): (Target, bool),
        selection: &Selection,
        load: Option<&Load>,
        directory: &Path,
    ) -> anyhow::Result<Self> {
        let before = if before { "before" } else { "with" };
        let asked = format!("{} {before} {target} {selection:?}", archive.id());
        let mark = match load {
            Some(load) => interrupted_on(&load.client).await.map_err(classify)?,
            None => interrupted_in(directory)
                .with_context(|| format!("look into {}", directory.display()))?,
        };
        let begun = mark.and_then(|mark| stop_of(&mark, &asked));
        Ok(Self { asked, begun })
    }

    /// What to plan for: what was asked for, or where the interrupted one ends.
    pub(super) fn target(&self, target: Target, before: bool) -> (Target, bool) {
        match self.begun {
            Some(stop) => (Target::Ts(stop), false),
            None => (target, before),
        }
    }

    /// As it is written into a mark; `stop` is where the plan ends.
    pub(super) fn mark(&self, stop: ClusterTime) -> String {
        format!("{}{UP_TO}{}", self.asked, self.begun.unwrap_or(stop))
    }

    /// What the operator has to know.
    pub(super) fn remark(&self) -> Option<String> {
        self.begun.map(|stop| {
            format!(
                "the same restore was interrupted here; its state, up to ts:{stop}, is made from the beginning. For a later one \
                 take away what it left, or name another place"
            )
        })
    }
}

/// Where the restore ends that `mark` tells of, if it is one of what was `asked` for.
fn stop_of(mark: &str, asked: &str) -> Option<ClusterTime> {
    mark.strip_prefix(asked)?.strip_prefix(UP_TO)?.parse().ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_same_command_ends_where_it_ended_first_and_another_one_does_not() {
        let first = Job {
            asked: "id with latest all".into(),
            begun: None,
        };
        let mark = first.mark("7.1".parse().unwrap());
        let again = Job {
            begun: stop_of(&mark, &first.asked),
            ..first
        };
        let stop = "7.1".parse().unwrap();
        assert_eq!(
            again.target(Target::Latest, false),
            (Target::Ts(stop), false)
        );
        assert_eq!(again.mark("9.1".parse().unwrap()), mark);
        assert_eq!(stop_of(&mark, "id with latest"), None);
        assert_eq!(stop_of(&mark, "id before latest all"), None);
    }
}
