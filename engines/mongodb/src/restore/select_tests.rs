use super::*;
use crate::fold::raw::Builder;

fn collections(names: &[&str]) -> BTreeMap<Uuid, Collection> {
    let collection = |(number, name): (u8, &&str)| {
        let uuid = Uuid::from_bytes([number; 16]);
        let (db, name) = name.split_once('.').unwrap();
        let collection = Collection {
            uuid,
            db: db.into(),
            name: name.into(),
            options: Builder::new().finish(),
            indexes: vec![],
        };
        (uuid, collection)
    };
    (1..).zip(names).map(collection).collect()
}

const NAMES: [&str; 10] = [
    "a.x",
    "a.y",
    "a.fs.files",
    "a.fs.chunks",
    "a.system.views",
    "a.system.buckets.t",
    "b.x",
    "admin.system.users",
    "admin.system.keys",
    "a.system.profile",
];

fn picked(selection: &Selection) -> Result<Vec<String>, String> {
    let selected = selection
        .pick(collections(&NAMES), BTreeSet::new())
        .map_err(|error| error.to_string())?;
    assert_eq!(selected.targets.len() + selected.others.len(), NAMES.len());
    Ok(selected.targets.iter().map(Target::namespace).collect())
}

fn only(names: &[&str]) -> Selection {
    Selection {
        only: names.iter().map(|name| name.parse().unwrap()).collect(),
        ..Selection::default()
    }
}

#[test]
fn everything_is_what_users_made() {
    let all = [
        "a.fs.chunks",
        "a.fs.files",
        "a.system.views",
        "a.t",
        "a.x",
        "a.y",
        "admin.system.users",
        "b.x",
    ];
    assert_eq!(picked(&Selection::default()).unwrap(), all);
}

#[test]
fn a_name_picks_a_database_or_a_collection_and_the_whole_of_a_gridfs_bucket() {
    assert_eq!(picked(&only(&["b"])).unwrap(), ["b.x"]);
    assert_eq!(picked(&only(&["a.x"])).unwrap(), ["a.system.views", "a.x"]);
    assert_eq!(picked(&only(&["a.t"])).unwrap(), ["a.system.views", "a.t"]);
    let bucket = ["a.fs.chunks", "a.fs.files", "a.system.views"];
    assert_eq!(picked(&only(&["a.fs.files"])).unwrap(), bucket);
    assert_eq!(picked(&only(&["a.fs.chunks"])).unwrap(), bucket);
    assert!(
        picked(&only(&["b.nothing"]))
            .unwrap_err()
            .contains("nothing called b.nothing")
    );
    assert!(picked(&only(&["c"])).is_err());
}

#[test]
fn a_rename_moves_a_database_a_collection_or_a_bucket() {
    let renamed = |only_names: &[&str], renames: &[&str]| {
        picked(&Selection {
            rename: renames
                .iter()
                .map(|rename| rename.parse().unwrap())
                .collect(),
            ..only(only_names)
        })
    };
    assert_eq!(renamed(&["b"], &["b=c"]).unwrap(), ["c.x"]);
    assert_eq!(renamed(&["b.x"], &["b.x=c.d.e", "b=z"]).unwrap(), ["c.d.e"]);
    let bucket = renamed(&["a.fs.files"], &["a.fs.files=g.old.files"]).unwrap();
    assert_eq!(bucket, ["a.system.views", "g.old.chunks", "g.old.files"]);
    assert!(
        renamed(&["a.fs.files"], &["a.fs.files=g.old"])
            .unwrap_err()
            .contains("GridFS")
    );
    assert!(
        renamed(&["a", "b"], &["b.x=a.x"])
            .unwrap_err()
            .contains("two collections")
    );
    for wrong in ["a", "a=b.c", "a.b=c", "=", "a.=b.c", "a b=c"] {
        assert!(wrong.parse::<Rename>().is_err(), "{wrong}");
    }
}

#[test]
fn documents_are_picked_from_one_collection() {
    let by_id = |names: &[&str]| {
        picked(&Selection {
            id: Some(bson::doc! { "_id": 1 }.to_vec().unwrap()),
            ..only(names)
        })
    };
    assert_eq!(by_id(&["a.x"]).unwrap(), ["a.x"]);
    assert_eq!(
        by_id(&["a.fs.files"]).unwrap(),
        ["a.fs.chunks", "a.fs.files"]
    );
    for (names, word) in [
        (["a"].as_slice(), "--only"),
        (&[], "--only"),
        (&["a.x", "a.y"], "--only"),
        (&["a.t"], "nothing called"),
        (&["a.fs.chunks"], "follow their files"),
    ] {
        let error = by_id(names).unwrap_err();
        assert!(error.contains(word), "{names:?}: {error}");
    }
}
