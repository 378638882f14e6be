//! A MongoDB replica set of one or three members, each on its own port, in its own directory.

use std::path::PathBuf;
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use bson::{Document, doc};
use futures_util::TryStreamExt;
use mongodb::options::ClientOptions;
use mongodb::{Client, Collection};
use pitr_mongodb::ClusterTime;
use tokio::runtime::Runtime;

use crate::process::{Process, Signal};
use crate::{Port, Site, wait_until};

/// How long a member may take to start, to stop, to become primary.
const PATIENCE: Duration = Duration::from_secs(90);

/// Which MongoDB.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Release {
    /// 6.0.5, whose change streams refuse events of more than 16 MiB.
    V6_0_5,
    /// 6.0.27, whose change streams cut them into fragments.
    V6_0_27,
}

/// Where `mongod` lies. Panics, naming the remedy, when it is not installed.
fn program(release: Release) -> PathBuf {
    let servers = std::env::var_os("PITRD_SERVERS")
        .map_or_else(|| PathBuf::from("/var/tmp/pitrd-servers"), PathBuf::from);
    let path = servers.join(match release {
        Release::V6_0_5 => "mongodb6/bin/mongod",
        Release::V6_0_27 => "mongodb6-late/bin/mongod",
    });
    assert!(
        path.exists(),
        "{} is missing: MongoDB is not installed; run `make deps`",
        path.display()
    );
    path
}

struct Member {
    port: Port,
    data: PathBuf,
    process: Option<Process>,
}

/// A replica set. Dropping it kills its members.
pub struct Mongo {
    site: Arc<Site>,
    name: String,
    release: Release,
    arguments: Vec<String>,
    members: Vec<Member>,
    runtime: Runtime,
    client: Option<Client>,
    /// `user:password@`, or nothing.
    credentials: String,
    /// More options of the URI, each with its `&`.
    options: String,
}

impl std::fmt::Debug for Mongo {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "Mongo({})", self.name)
    }
}

impl Mongo {
    /// A replica set of one member.
    pub fn single(site: &Arc<Site>, name: &str) -> Mongo {
        Mongo::start_new(site, name, 1, &[])
    }

    /// A replica set of one member of that release.
    pub fn of(release: Release, site: &Arc<Site>, name: &str) -> Mongo {
        Mongo::start_release(release, site, name, 1, &[], "")
    }

    /// A replica set of three members, which elect within seconds.
    pub fn three(site: &Arc<Site>, name: &str) -> Mongo {
        Mongo::start_new(site, name, 3, &[])
    }

    /// A replica set of one member that lets nobody in without a password, and the user `root`.
    pub fn guarded(site: &Arc<Site>, name: &str, password: &str) -> Mongo {
        let key = site.path(&format!("{name}.key"));
        site.write(&key, "a2V5cyBvZiB0ZXN0cyBhcmUgbm8gc2VjcmV0cw==", 0o600);
        let key = key.to_string_lossy();
        let mut mongo = Mongo::start_new(site, name, 1, &["--keyFile", &key]);
        let user = doc! { "createUser": "root", "pwd": password, "roles": ["root"] };
        let admin = mongo.direct(0).database("admin");
        let created = mongo
            .runtime
            .block_on(async { admin.run_command(user).await });
        created.expect("create the first user");
        mongo.log_in(password);
        mongo
    }

    /// Becomes `root` with this password.
    pub fn log_in(&mut self, password: &str) {
        self.credentials = format!("root:{password}@");
        self.client = Some(self.connect(&self.uri()));
    }

    /// A replica set of `count` members, each with further arguments of `mongod`, such as `--oplogSize 1`.
    pub fn start_new(site: &Arc<Site>, name: &str, count: usize, arguments: &[&str]) -> Mongo {
        Mongo::start_with(site, name, count, arguments, "")
    }

    /// The same; clients need further `options` in their URI, such as `&tls=true`.
    pub fn start_with(
        site: &Arc<Site>,
        name: &str,
        count: usize,
        arguments: &[&str],
        options: &str,
    ) -> Mongo {
        Mongo::start_release(Release::V6_0_5, site, name, count, arguments, options)
    }

    fn start_release(
        release: Release,
        site: &Arc<Site>,
        name: &str,
        count: usize,
        arguments: &[&str],
        options: &str,
    ) -> Mongo {
        let members = (0..count).map(|number| Member {
            port: Port::reserve(),
            data: site.directory(&format!("{name}-{number}")),
            process: None,
        });
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .expect("build a runtime");
        let mut mongo = Mongo {
            site: site.clone(),
            name: name.to_owned(),
            release,
            arguments: arguments.iter().map(|&a| a.to_owned()).collect(),
            members: members.collect(),
            runtime,
            client: None,
            credentials: String::new(),
            options: options.to_owned(),
        };
        for member in 0..count {
            mongo.start(member);
        }
        mongo.initiate();
        mongo
    }

    fn initiate(&mut self) {
        let members: Vec<Document> = (0..self.members.len())
            .map(|number| doc! { "_id": number as i32, "host": self.address(number) })
            .collect();
        let config = doc! {
            "_id": &self.name,
            "members": members,
            "settings": { "electionTimeoutMillis": 2000, "heartbeatIntervalMillis": 500 },
        };
        let direct = self.direct(0);
        let admin = direct.database("admin");
        let initiate = async { admin.run_command(doc! { "replSetInitiate": config }).await };
        self.runtime
            .block_on(initiate)
            .expect("initiate the replica set");
        self.wait_primary();
        self.client = Some(self.connect(&self.uri()));
    }

    /// How a client finds all members.
    pub fn uri(&self) -> String {
        self.uri_of(&self.credentials)
    }

    /// The same for another user: `user:password@`, `user@`, or nothing.
    pub fn uri_of(&self, user: &str) -> String {
        let hosts: Vec<String> = (0..self.members.len())
            .map(|number| self.address(number))
            .collect();
        let (hosts, options) = (hosts.join(","), &self.options);
        format!("mongodb://{user}{hosts}/?replicaSet={}{options}", self.name)
    }

    /// How a client reaches one member and no other.
    pub fn member_uri(&self, member: usize) -> String {
        let (user, options) = (&self.credentials, &self.options);
        let address = self.address(member);
        format!("mongodb://{user}{address}/?directConnection=true{options}")
    }

    fn address(&self, member: usize) -> String {
        format!("127.0.0.1:{}", self.members[member].port.number())
    }

    /// The scratch directory that it lives in.
    pub fn site(&self) -> &Arc<Site> {
        &self.site
    }

    /// What its members are.
    pub fn release(&self) -> Release {
        self.release
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    fn connect(&self, uri: &str) -> Client {
        self.runtime.block_on(async {
            let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
            options.server_selection_timeout = Some(PATIENCE);
            Client::with_options(options).expect("make a client")
        })
    }

    /// Whether a client of `uri` is let in; the error is the driver's text.
    pub fn connects(uri: &str) -> Result<(), String> {
        let ping = async {
            let client = Client::with_uri_str(uri).await?;
            let admin = client.database("admin");
            admin.run_command(doc! { "ping": 1 }).await
        };
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .build()
            .expect("build a runtime");
        let answer = runtime.block_on(ping);
        answer.map(drop).map_err(|error| error.to_string())
    }

    fn direct(&self, member: usize) -> Client {
        self.connect(&self.member_uri(member))
    }

    /// A client of the whole set.
    pub fn client(&self) -> Client {
        self.client.clone().expect("the set was initiated")
    }

    /// A collection, by `db.name`.
    pub fn collection(&self, namespace: &str) -> Collection<Document> {
        let (db, name) = namespace.split_once('.').expect("a namespace is db.name");
        self.client().database(db).collection(name)
    }

    /// Runs what talks to the set.
    pub fn block_on<T>(&self, work: impl Future<Output = T>) -> T {
        self.runtime.block_on(work)
    }

    /// Runs a command; the error is the server's text.
    pub fn try_run(&self, db: &str, command: Document) -> Result<Document, String> {
        let database = self.client().database(db);
        self.block_on(async { database.run_command(command).await })
            .map_err(|error| error.to_string())
    }

    /// Runs a command that must succeed.
    #[track_caller]
    pub fn run(&self, db: &str, command: Document) -> Document {
        let shown = format!("{command}");
        self.try_run(db, command)
            .unwrap_or_else(|error| panic!("{shown:.300}: {error}"))
    }

    /// All documents of a collection that match, in the order of `_id`.
    pub fn find(&self, namespace: &str, filter: Document) -> Vec<Document> {
        let collection = self.collection(namespace);
        let find = collection.find(filter).sort(doc! { "_id": 1 });
        self.block_on(async { find.await?.try_collect().await })
            .expect("find")
    }

    /// The entries of a member's oplog, raw, oldest first.
    pub fn oplog(&self, member: usize) -> Vec<bson::RawDocumentBuf> {
        let direct = self.direct(member);
        let entries = direct.database("local").collection("oplog.rs");
        let find = entries.find(doc! {}).sort(doc! { "$natural": 1 });
        self.block_on(async { find.await?.try_collect().await })
            .expect("read the oplog")
    }

    /// What a majority of the set has now, everything acknowledged before included; not a no-op.
    pub fn mark(&self) -> ClusterTime {
        let insert = doc! {
            "insert": "marks", "documents": [{}], "writeConcern": { "w": "majority" },
        };
        let answer = self.run("marks", insert);
        let time = answer.get_timestamp("operationTime");
        ClusterTime::from(time.expect("members of a replica set tell the time"))
    }

    /// Panics unless the archived entries `run` are those of a member's oplog in the same range, word for word.
    #[track_caller]
    pub fn assert_archived(&self, member: usize, archived: &[Vec<u8>], context: &str) {
        let time = |bytes: &[u8]| {
            let entry = bson::raw::RawDocument::from_bytes(bytes).expect("an entry");
            let time = entry.get_timestamp("ts").expect("an entry has a time");
            ClusterTime::from(time)
        };
        let first = time(archived.first().expect("something is archived"));
        let last = time(archived.last().expect("something is archived"));
        let own = self.oplog(member);
        let inside = own.iter().map(|entry| entry.as_bytes());
        let inside: Vec<&[u8]> = inside
            .filter(|entry| (first..=last).contains(&time(entry)))
            .collect();
        let different = archived.iter().zip(&inside).position(|(a, b)| a != b);
        assert!(
            archived.len() == inside.len() && different.is_none(),
            "{context}: {} entries are archived and {} in the oplog, the first that differs is {different:?}",
            archived.len(),
            inside.len()
        );
    }

    /// Starts a member and waits until it answers.
    pub fn start(&mut self, member: usize) {
        let (port, data) = (
            self.members[member].port.number(),
            self.members[member].data.clone(),
        );
        assert!(
            self.members[member].process.is_none(),
            "member {member} runs already"
        );
        let mut command: Command = self.site.command(&program(self.release));
        command
            .args([
                "--replSet",
                &self.name,
                "--bind_ip",
                "127.0.0.1",
                "--port",
                &port.to_string(),
            ])
            .args(["--wiredTigerCacheSizeGB", "2", "--nounixsocket"])
            .args(["--setParameter", "diagnosticDataCollectionEnabled=false"])
            .arg("--dbpath")
            .arg(data)
            .args(&self.arguments);
        let log = self.site.path(&format!("{}-{member}.log", self.name));
        self.members[member].process = Some(Process::spawn(command, &log));
        let direct = self.direct(member);
        wait_until(&format!("member {member} to answer"), PATIENCE, || {
            self.ask(&direct, doc! { "ping": 1 }).is_some()
        });
    }

    /// A member's answer, if it gives one soon.
    fn ask(&self, direct: &Client, command: Document) -> Option<Document> {
        let admin = direct.database("admin");
        let answer = async move { admin.run_command(command).await };
        let soon = async { tokio::time::timeout(Duration::from_secs(5), answer).await };
        self.runtime.block_on(soon).ok()?.ok()
    }

    /// SIGKILL.
    pub fn kill(&mut self, member: usize) {
        let mut process = self.members[member]
            .process
            .take()
            .expect("the member runs");
        process.signal(Signal::Kill);
        process.wait(PATIENCE);
    }

    /// A clean shutdown.
    pub fn stop(&mut self, member: usize) {
        let mut process = self.members[member]
            .process
            .take()
            .expect("the member runs");
        process.signal(Signal::Term);
        process.wait(PATIENCE);
    }

    /// Which member is primary; waits for one.
    pub fn wait_primary(&self) -> usize {
        let mut found = None;
        wait_until("a primary", PATIENCE, || {
            found = self.primary();
            found.is_some()
        });
        found.expect("a primary was found")
    }

    fn primary(&self) -> Option<usize> {
        let running = |&number: &usize| self.members[number].process.is_some();
        (0..self.members.len()).filter(running).find(|&number| {
            let hello = self.ask(&self.direct(number), doc! { "hello": 1 });
            hello.is_some_and(|hello| hello.get_bool("isWritablePrimary").unwrap_or(false))
        })
    }

    /// Makes the primary step down, and waits for the next one.
    pub fn step_down(&self) -> usize {
        let primary = self.wait_primary();
        let direct = self.direct(primary);
        let command =
            doc! { "replSetStepDown": 20, "secondaryCatchUpPeriodSecs": 10, "force": true };
        // The connection may be closed before the answer is read.
        let _ = self.block_on(async { direct.database("admin").run_command(command).await });
        let mut next = primary;
        wait_until("another primary", PATIENCE, || {
            next = self.primary().unwrap_or(primary);
            next != primary
        });
        next
    }

    /// The resident memory and more of a member.
    pub fn process(&self, member: usize) -> &Process {
        self.members[member]
            .process
            .as_ref()
            .expect("the member runs")
    }
}
