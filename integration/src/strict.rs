//! A server that lets in nobody over TCP but with SCRAM inside TLS, and the authority behind its certificate.

use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::Duration;

use crate::{Finished, Postgres, Settings, Site, Stop, Version};

/// The password of the role `archiver` in the beginning.
pub const PASSWORD: &str = "correct horse";
const KEY: &str = "-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes";

/// How long a certificate is good for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Validity {
    /// Longer than any test runs.
    Days,
    /// It has expired when it is there.
    Over,
}

/// A certificate authority and a key for `localhost`, in PEM, in a directory of their own.
#[derive(Debug)]
pub struct Authority {
    site: Arc<Site>,
    directory: PathBuf,
}

impl Authority {
    /// Makes both, and a valid certificate.
    pub fn new(site: &Arc<Site>, name: &str) -> Authority {
        let authority = Authority {
            site: site.clone(),
            directory: site.directory(name),
        };
        authority.openssl(&format!(
            "req -x509 {KEY} -days 2 -subj /CN=test-authority -addext basicConstraints=critical,CA:TRUE \
             -keyout ca.key -out ca.crt"
        ));
        authority.openssl(&format!(
            "req -new {KEY} -subj /CN=localhost -keyout server.key -out server.csr"
        ));
        let names = "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n";
        std::fs::write(authority.path("san"), names).expect("write");
        authority.issue(Validity::Days);
        authority
    }

    /// Issues the server's certificate anew; the server reads it when it is told to.
    pub fn issue(&self, validity: Validity) {
        let days = match validity {
            Validity::Days => 2,
            Validity::Over => 0,
        };
        self.openssl(&format!(
            "x509 -req -in server.csr -CA ca.crt -CAkey ca.key -CAcreateserial -days {days} -extfile san -out server.crt"
        ));
        for file in ["ca.crt", "server.key", "server.crt"] {
            let path = self.path(file);
            std::fs::set_permissions(&path, PermissionsExt::from_mode(0o600))
                .expect("set the mode");
            self.site.own(&path);
        }
        if validity == Validity::Over {
            // It is valid in the second in which it was made.
            std::thread::sleep(Duration::from_millis(1100));
        }
    }

    /// A file of it.
    pub fn path(&self, file: &str) -> PathBuf {
        self.directory.join(file)
    }

    fn openssl(&self, arguments: &str) {
        let mut command = Command::new("openssl");
        command
            .args(arguments.split_whitespace())
            .current_dir(&self.directory);
        Finished::run(&mut command).success("openssl (run `make deps`)");
    }
}

/// The server, with the role `archiver`, which can do nothing but replicate. `postgres` comes in without a password.
#[derive(Debug)]
pub struct StrictServer {
    /// The server, running.
    pub server: Postgres,
    /// Whose certificate it shows.
    pub authority: Authority,
}

impl StrictServer {
    /// Makes it, with pgbench's tables.
    pub fn start_new(site: &Arc<Site>, version: Version) -> StrictServer {
        let authority = Authority::new(site, "pki");
        let mut server = Postgres::start_new(site, version, "primary", "");
        server.session().run(&format!(
            "set password_encryption = 'scram-sha-256';
             create role archiver login replication password '{PASSWORD}'"
        ));
        server.pgbench_init(1);
        let (certificate, key) = (authority.path("server.crt"), authority.path("server.key"));
        server.configure(&format!(
            "ssl = on\nssl_cert_file = '{}'\nssl_key_file = '{}'",
            certificate.display(),
            key.display()
        ));
        let rules = "local all postgres trust\nhost all postgres 127.0.0.1/32 trust\n\
                     hostssl all archiver 127.0.0.1/32 scram-sha-256\n\
                     hostssl replication archiver 127.0.0.1/32 scram-sha-256\n";
        site.write(&server.data().join("pg_hba.conf"), rules, 0o600);
        server.restart(Stop::Fast);
        StrictServer { server, authority }
    }

    /// Of a daemon that comes in as `archiver`; `more` says where its password is.
    pub fn settings(&self, sslmode: &str, root: &Path, more: &str) -> Settings {
        let mut settings = Settings::new(&self.server, "pitrd");
        settings.connection = format!(
            "host=localhost port={} user=archiver dbname=postgres sslmode={sslmode} sslrootcert={} {more}",
            self.server.port(),
            root.display()
        );
        settings
    }

    /// The keyword for a passfile that holds this password.
    pub fn passfile(&self, password: &str) -> String {
        let path = self.server.site().path("passfile");
        let line = format!("localhost:{}:*:archiver:{password}\n", self.server.port());
        self.server.site().write(&path, &line, 0o600);
        format!("passfile={}", path.display())
    }

    /// Ends the daemon's connection: it has to come in again.
    pub fn show_out(&self) {
        let walsenders =
            "select pg_terminate_backend(pid) from pg_stat_replication where usename = 'archiver'";
        self.server.session().run(walsenders);
    }
}
