use super::*;

#[test]
fn names_are_escaped_as_mongodump_escapes_them() {
    assert_eq!(file_name("orders.2026"), "orders.2026");
    assert_eq!(file_name("a/b %ü"), "a%2Fb%20%25%C3%BC");
    let long = file_name(&"/".repeat(200));
    assert_eq!((long.len(), &long[208..211]), (238, "%24"));
    assert_ne!(long, file_name(&"/".repeat(201)));
}

#[test]
fn a_directory_that_holds_something_is_refused_and_an_interrupted_restore_begins_again() {
    let root = tempfile::tempdir().unwrap();
    let directory = |job: &str| Directory {
        path: root.path().join("out"),
        job: job.into(),
    };
    directory("one").prepare().unwrap();
    write(&root.path().join("out/left.bson"), b"half").unwrap();
    assert!(matches!(
        directory("other").prepare(),
        Err(RestoreError::Place { .. })
    ));
    directory("one").prepare().unwrap();
    assert!(!root.path().join("out/left.bson").exists());
    write(&root.path().join("out/done.bson"), b"whole").unwrap();
    directory("one").finish().unwrap();
    assert!(matches!(
        directory("one").prepare(),
        Err(RestoreError::Place { .. })
    ));
}

#[test]
fn no_database_leaves_the_directory() {
    let root = tempfile::tempdir().unwrap();
    for db in ["..", ".", "", "a/b", "/etc"] {
        assert!(path(root.path(), db, "x", ".bson").is_err(), "{db}");
    }
    assert_eq!(
        path(root.path(), "a", "../x", ".bson").unwrap(),
        root.path().join("a/..%2Fx.bson")
    );
}
