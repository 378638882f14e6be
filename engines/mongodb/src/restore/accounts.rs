//! Users and roles. Their two collections are known by name: they cannot be renamed, and a base copy has their documents in its manifest.
//! What else lies in `admin.system.` belongs to the deployment and is not restored.

use bson::Uuid;

use crate::FCV_NAMESPACE;
use crate::base::BaseManifest;
use crate::fold::catalogue::Collection;
use crate::fold::raw::Builder;
use crate::fold::{Entry, FoldError};

/// Stands for the collection of users, whatever its UUID.
pub(super) const USERS: Uuid = Uuid::from_bytes(*b"pitrd users     ");
/// Stands for the collection of roles.
pub(super) const ROLES: Uuid = Uuid::from_bytes(*b"pitrd roles     ");

/// Both collections.
pub(super) fn collections() -> [Collection; 2] {
    [(USERS, "system.users"), (ROLES, "system.roles")].map(|(uuid, name)| Collection {
        uuid,
        db: "admin".into(),
        name: name.into(),
        options: Builder::new().finish(),
        indexes: Vec::new(),
    })
}

/// Whether the base copy's collection is one that is known by name, or not restored.
pub(super) fn is_internal(db: &str, name: &str) -> bool {
    db == "admin" && name.starts_with("system.")
}

/// The rows of both in the base copy.
pub(super) fn rows(manifest: &BaseManifest) -> [(Uuid, Vec<u8>); 2] {
    let bytes = |documents: &[bson::RawDocumentBuf]| {
        documents
            .iter()
            .flat_map(|document| document.as_bytes().to_vec())
            .collect()
    };
    [
        (USERS, bytes(&manifest.users)),
        (ROLES, bytes(&manifest.roles)),
    ]
}

/// `entry` under the UUID that stands for its collection; `None` if it is not restored.
///
/// # Errors
/// A command without a name.
pub(super) fn by_name<'a>(entry: &Entry<'a>) -> Result<Option<Entry<'a>>, FoldError> {
    if entry.database() != "admin" {
        return Ok(Some(*entry));
    }
    let name = match entry.op {
        "c" => entry.command()?.1.text(),
        _ => entry.namespace.split_once('.').map(|(_, name)| name),
    };
    let uuid = match name {
        Some("system.users") => Some(USERS),
        Some("system.roles") => Some(ROLES),
        Some(name) if name.starts_with("system.") => return Ok(None),
        _ => entry.uuid,
    };
    Ok(Some(Entry { uuid, ..*entry }))
}

/// How users are stored, as mongorestore wants to know it: so since MongoDB 4.0.
pub(super) fn version() -> Vec<u8> {
    let mut version = Builder::new();
    version.text("_id", "authSchema").int32("currentVersion", 5);
    version.finish()
}

/// Whether a change of the feature compatibility version may be in it, which the catalogue has to see.
pub(super) fn is_version(entry: &Entry<'_>) -> bool {
    entry.op != "c" && entry.namespace == FCV_NAMESPACE
}

#[cfg(test)]
mod tests {
    use bson::{DateTime, Timestamp, doc};

    use super::*;
    use crate::ClusterTime;

    fn uuid_of(op: &str, ns: &str, o: bson::Document) -> Option<Option<Uuid>> {
        let entry = doc! {
            "op": op, "ns": ns, "ui": Uuid::from_bytes([7; 16]), "o": o, "ts": Timestamp { time: 1, increment: 1 },
            "wall": DateTime::from_millis(0),
        };
        let bytes = entry.to_vec().unwrap();
        let entry = Entry::read(&bytes, ClusterTime::default()).unwrap();
        by_name(&entry).unwrap().map(|entry| entry.uuid)
    }

    #[test]
    fn users_and_roles_are_known_by_name_and_the_rest_of_the_system_is_left() {
        let other = Some(Some(Uuid::from_bytes([7; 16])));
        assert_eq!(
            uuid_of("i", "admin.system.users", doc! { "_id": 1 }),
            Some(Some(USERS))
        );
        assert_eq!(
            uuid_of("c", "admin.$cmd", doc! { "create": "system.roles" }),
            Some(Some(ROLES))
        );
        assert_eq!(uuid_of("u", "admin.system.keys", doc! { "_id": 1 }), None);
        assert_eq!(
            uuid_of("c", "admin.$cmd", doc! { "drop": "system.keys" }),
            None
        );
        assert_eq!(uuid_of("i", "admin.mine", doc! { "_id": 1 }), other);
        assert_eq!(uuid_of("i", "shop.system.users", doc! { "_id": 1 }), other);
        assert_eq!(
            uuid_of("c", "admin.$cmd", doc! { "dropDatabase": 1 }),
            other
        );
    }
}
