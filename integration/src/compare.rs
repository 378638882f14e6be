//! Is the restored cluster the one that was there? Every row of every database, the schema, the sequences.

use crate::Postgres;
use crate::process::Finished;
use std::collections::BTreeMap;

/// Tables with permanent storage, partitions and materialized views included.
const TABLES: &str = "select format('%I.%I', n.nspname, c.relname) from pg_class c \
    join pg_namespace n on n.oid = c.relnamespace where c.relkind in ('r', 'm') and c.relpersistence = 'p' \
    and n.nspname not like 'pg\\_%' and n.nspname <> 'information_schema' order by 1";

/// The content of a cluster at one moment. The cluster must be quiet while it is taken.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Fingerprint {
    /// `database schema.table` → row count and two sums over the rows' hashes (a multiset checksum).
    pub tables: BTreeMap<String, String>,
    /// `database oid` → size and MD5 of each large object.
    pub large_objects: BTreeMap<String, String>,
    /// `database schema.sequence` → last value.
    pub sequences: BTreeMap<String, i64>,
    /// Names of prepared transactions.
    pub prepared: Vec<String>,
    /// `pg_dumpall --schema-only` without what differs between two runs over the same cluster.
    pub schema: String,
}

impl Fingerprint {
    /// Reads everything.
    pub fn take(server: &Postgres) -> Fingerprint {
        let mut tables = BTreeMap::new();
        let mut large_objects = BTreeMap::new();
        let mut sequences = BTreeMap::new();
        let names = server
            .session()
            .run("select datname from pg_database where datallowconn order by 1");
        for name in names.iter().map(|row| &row[0]) {
            let session = server.session_in(name);
            session.run(
                "set timezone = 'UTC'; set extra_float_digits = 1; set search_path = pg_catalog",
            );
            for table in session.run(TABLES).iter().map(|row| &row[0]) {
                let sum = session.run(&format!(
                    "select count(*), coalesce(sum(hashtextextended(t::text, 0)), 0), \
                     coalesce(sum(hashtextextended(t::text, 7)), 0) from {table} t"
                ));
                tables.insert(format!("{name} {table}"), sum[0].join(" "));
            }
            let objects = session.run(
                "select oid, length(lo_get(oid)), md5(lo_get(oid)) from pg_largeobject_metadata order by 1",
            );
            for row in objects {
                large_objects.insert(format!("{name} {}", row[0]), row[1..].join(" "));
            }
            let values = session.run(
                "select format('%I.%I', schemaname, sequencename), coalesce(last_value, 0) from pg_sequences",
            );
            for row in values {
                sequences.insert(
                    format!("{name} {}", row[0]),
                    row[1].parse().expect("a sequence value"),
                );
            }
        }
        let prepared = server
            .session()
            .run("select gid from pg_prepared_xacts order by 1");
        Fingerprint {
            tables,
            large_objects,
            sequences,
            prepared: prepared.into_iter().map(|row| row[0].clone()).collect(),
            schema: schema(server),
        }
    }

    /// Panics with the first difference, unless `restored` holds exactly what `self` holds.
    ///
    /// A sequence may stand up to 32 values further: that is how many PostgreSQL logs in advance.
    #[track_caller]
    pub fn assert_restored_in(&self, restored: &Postgres, moment: &str) {
        let found = Fingerprint::take(restored);
        assert_maps(&self.tables, &found.tables, moment);
        assert_maps(&self.large_objects, &found.large_objects, moment);
        assert_eq!(
            self.prepared, found.prepared,
            "{moment}: prepared transactions"
        );
        let names = |map: &BTreeMap<String, i64>| map.keys().cloned().collect::<Vec<_>>();
        assert_eq!(
            names(&self.sequences),
            names(&found.sequences),
            "{moment}: sequences"
        );
        for (name, before) in &self.sequences {
            let after = found.sequences[name];
            assert!(
                (*before..=before + 33).contains(&after),
                "{moment}: sequence {name} was {before} and is {after}"
            );
        }
        for (before, after) in self.schema.lines().zip(found.schema.lines()) {
            assert_eq!(before, after, "{moment}: schema");
        }
        assert_eq!(
            self.schema.len(),
            found.schema.len(),
            "{moment}: length of the schema"
        );
    }
}

#[track_caller]
fn assert_maps(before: &BTreeMap<String, String>, after: &BTreeMap<String, String>, moment: &str) {
    for (name, value) in before {
        assert_eq!(Some(value), after.get(name), "{moment}: {name}");
    }
    for name in after.keys() {
        assert!(
            before.contains_key(name),
            "{moment}: {name} should not exist"
        );
    }
}

fn schema(server: &Postgres) -> String {
    let mut command = server.client("pg_dumpall");
    command.arg("--schema-only");
    let dump = Finished::run(&mut command)
        .success("pg_dumpall --schema-only")
        .stdout;
    let kept = dump.lines().filter_map(|line| {
        // Random tokens of psql's restricted mode, dates, and directories that a restore maps elsewhere.
        if line.starts_with("\\restrict")
            || line.starts_with("\\unrestrict")
            || line.starts_with("--")
        {
            return None;
        }
        match line.split_once(" LOCATION ") {
            Some((start, _)) if line.starts_with("CREATE TABLESPACE") => Some(start.to_owned()),
            _ => Some(line.to_owned()),
        }
    });
    kept.collect::<Vec<_>>().join("\n")
}

/// Checks every heap and every B-tree of every database with the version's own pg_amcheck.
#[track_caller]
pub fn amcheck(server: &Postgres) {
    let mut command = server.client("pg_amcheck");
    command.args(["--all", "--heapallindexed", "--jobs=2"]);
    Finished::run(&mut command).success("pg_amcheck");
}
