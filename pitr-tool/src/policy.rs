//! `pitr-tool policy`: the least that the daemon, or a restore, has to be allowed to do with an archive and its copies in S3, as an IAM policy.

use clap::ValueEnum;
use pitr_archive::store::{S3Settings, Sse};
use pitrd::config::ArchiveUrl;
use pitrd::exit::{Exit, Refusal};
use serde_json::{Value, json};

use crate::output;
use crate::place::Place;

/// Arguments of `policy`.
#[derive(Debug, clap::Args)]
#[command(after_help = "\
Examples:
  pitr-tool policy --config /etc/pitrd/orders.toml
  pitr-tool policy --archive s3://backups/orders --role restore

Nobody needs a permission to delete. s3:ListBucket is what makes a missing object \"not found\" instead of \"forbidden\".")]
pub struct Args {
    /// Who is to be allowed
    #[arg(long, value_enum, default_value_t = Role::Daemon)]
    pub role: Role,
}

/// Whose policy.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub enum Role {
    /// Writes: pitrd, pitr-tool init and backup
    Daemon,
    /// Reads: pitr-tool status, plan, verify, restore, and a restored server's wal-fetch
    Restore,
}

/// Runs it.
pub fn run(place: &Place, args: &Args) -> anyhow::Result<Exit> {
    let config = place.config()?;
    let urls = place.urls(config.as_ref())?;
    let buckets = urls.iter().filter_map(|url| match url {
        ArchiveUrl::S3(settings) => Some(&**settings),
        ArchiveUrl::File(_) => None,
    });
    let buckets: Vec<_> = buckets.collect();
    if buckets.is_empty() {
        let message =
            "a directory has no policy: the daemon's user owns it, and nobody else may enter";
        return Err(Refusal::new(Exit::Usage, message).into());
    }
    let text = serde_json::to_string_pretty(&policy(&buckets, args.role));
    output::line(&text?)?;
    Ok(Exit::Done)
}

/// One policy for all of `buckets`.
fn policy(buckets: &[&S3Settings], role: Role) -> Value {
    let mut statements = Vec::new();
    for (number, settings) in buckets.iter().enumerate() {
        // An id is unique in a policy, and is made of letters and digits.
        let suffix = match number {
            0 => String::new(),
            _ => (number + 1).to_string(),
        };
        statements.extend(place_statements(settings, role, &suffix));
    }
    json!({ "Version": "2012-10-17", "Statement": statements })
}

fn place_statements(settings: &S3Settings, role: Role, suffix: &str) -> Vec<Value> {
    let bucket = format!("arn:aws:s3:::{}", settings.bucket);
    let slash = if settings.prefix.is_empty() { "" } else { "/" };
    let objects = format!("{bucket}/{}{slash}*", settings.prefix);
    let mut list = json!({
        "Sid": format!("ListArchive{suffix}"),
        "Effect": "Allow",
        "Action": ["s3:ListBucket", "s3:ListBucketVersions"],
        "Resource": bucket,
    });
    if !settings.prefix.is_empty() {
        // Asking for a missing object names no prefix, and must be answered "not found" all the same.
        list["Condition"] =
            json!({ "StringLikeIfExists": { "s3:prefix": format!("{}/*", settings.prefix) } });
    }
    let mut statements = vec![
        json!({
            "Sid": format!("Objects{suffix}"),
            "Effect": "Allow",
            "Action": object_actions(settings, role),
            "Resource": objects,
        }),
        list,
    ];
    if let Some(Sse::Kms(key)) = &settings.sse {
        let actions = match role {
            Role::Daemon => vec!["kms:GenerateDataKey", "kms:Decrypt"],
            Role::Restore => vec!["kms:Decrypt"],
        };
        let resource = match key {
            Some(key) if key.starts_with("arn:") => key.clone(),
            _ => "arn:aws:kms:REGION:ACCOUNT:key/KEY".into(),
        };
        let sid = format!("Key{suffix}");
        statements.push(
            json!({ "Sid": sid, "Effect": "Allow", "Action": actions, "Resource": resource }),
        );
    }
    statements
}

fn object_actions(settings: &S3Settings, role: Role) -> Vec<&'static str> {
    let mut actions = vec!["s3:GetObject"];
    if role == Role::Daemon {
        actions.push("s3:PutObject");
        if let Some(lock) = settings.lock {
            if lock.immutable_for.is_some() {
                actions.extend(["s3:PutObjectRetention", "s3:GetObjectRetention"]);
            }
            if lock.legal_hold {
                actions.extend(["s3:PutObjectLegalHold", "s3:GetObjectLegalHold"]);
            }
        }
    }
    // What a delete marker hides is read by its version.
    actions.push("s3:GetObjectVersion");
    actions
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(url: &str) -> S3Settings {
        url.parse().unwrap()
    }

    #[test]
    fn nobody_is_allowed_to_delete_and_a_restore_not_to_put() {
        let settings = settings("s3://backups/orders?sse=kms");
        for role in [Role::Daemon, Role::Restore] {
            let text = policy(&[&settings], role).to_string();
            assert!(!text.contains("Delete") && !text.contains("s3:*"), "{text}");
            assert_eq!(text.contains("s3:PutObject"), role == Role::Daemon);
            assert!(text.contains("arn:aws:s3:::backups/orders/*"), "{text}");
            assert!(text.contains("kms:Decrypt"), "{text}");
        }
    }

    #[test]
    fn a_bucket_of_its_own_is_listed_without_a_condition() {
        let text = policy(&[&settings("s3://backups")], Role::Daemon).to_string();
        assert!(text.contains("arn:aws:s3:::backups/*"), "{text}");
        assert!(!text.contains("Condition"), "{text}");
    }

    #[test]
    fn a_lock_needs_permissions_of_its_own() {
        let mut settings = settings("s3://backups");
        settings.lock = Some(pitr_archive::store::Lock {
            immutable_for: Some(std::time::Duration::from_secs(86_400)),
            mode: pitr_archive::store::LockMode::Compliance,
            legal_hold: true,
        });
        let text = policy(&[&settings], Role::Daemon).to_string();
        assert!(text.contains("s3:PutObjectRetention"), "{text}");
        assert!(text.contains("s3:PutObjectLegalHold"), "{text}");
        assert!(
            !policy(&[&settings], Role::Restore)
                .to_string()
                .contains("Retention")
        );
    }

    #[test]
    fn a_copy_is_in_the_policy_too() {
        let places = [settings("s3://here/orders"), settings("s3://there/orders")];
        let policy = policy(&[&places[0], &places[1]], Role::Daemon);
        let statements = policy["Statement"].as_array().unwrap();
        let ids: Vec<_> = statements.iter().map(|one| &one["Sid"]).collect();
        assert_eq!(ids, ["Objects", "ListArchive", "Objects2", "ListArchive2"]);
        assert_eq!(statements[2]["Resource"], "arn:aws:s3:::there/orders/*");
    }
}
