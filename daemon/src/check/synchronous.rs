//! Who waits for the archive at COMMIT: `synchronous_standby_names` read as the server reads it.

use super::Finding;

/// Who waits for `name` at COMMIT.
pub(super) fn synchronous(standbys: &str, name: &str) -> Finding {
    const SUBJECT: &str = "synchronous_standby_names";
    let (method, list) = standbys.split_once('(').unwrap_or(("", standbys));
    let names = list.trim_end().trim_end_matches(')').split(',');
    let names: Vec<&str> = names
        .map(|name| name.trim().trim_matches('"'))
        .filter(|name| !name.is_empty())
        .collect();
    let is_us = |one: &&&str| one.eq_ignore_ascii_case(name);
    let any = names.contains(&"*");
    if !any && !names.iter().any(|one| is_us(&one)) {
        return Finding::ok(
            SUBJECT,
            format!("does not name {name:?}: COMMIT does not wait for the archive"),
        );
    }
    let mut method = method.split_whitespace();
    let quorum = method
        .next()
        .is_some_and(|word| word.eq_ignore_ascii_case("any"));
    let needed = method.next().and_then(|count| count.parse().ok());
    let others = names.iter().filter(|one| !is_us(one)).count();
    if let Some(needed) = needed.filter(|needed| quorum && !any && others >= *needed) {
        Finding::ok(
            SUBJECT,
            format!(
                "{standbys}: COMMIT waits for {needed} of these, and not for the archive while {needed} of the others answer"
            ),
        )
    } else {
        let hint = format!(
            "while the store is away COMMIT may wait; with a standby, ANY 1 ({name}, standby) does not"
        );
        Finding::warn(
            SUBJECT,
            format!("{standbys}: COMMIT waits for the archive"),
            hint,
        )
    }
}

#[cfg(test)]
mod tests {
    use super::super::Level;
    use super::*;

    #[test]
    fn being_named_alone_is_a_warning_and_a_quorum_is_not() {
        let level = |standbys: &str| synchronous(standbys, "pitrd").level;
        assert_eq!(level(""), Level::Ok);
        assert_eq!(level("standby1, standby2"), Level::Ok);
        assert_eq!(level("ANY 1 (pitrd, standby1)"), Level::Ok);
        assert_eq!(level("any 1 (\"pitrd\", standby1)"), Level::Ok);
        assert_eq!(level("ANY 2(pitrd,standby1, standby2)"), Level::Ok);
        for waits in [
            "pitrd",
            "*",
            "FIRST 1 (pitrd, standby1)",
            "ANY 1 (pitrd)",
            "ANY 2 (pitrd, standby1)",
            "ANY 1 (*)",
            "1 (pitrd)",
        ] {
            assert_eq!(level(waits), Level::Warn, "{waits}");
        }
    }
}
