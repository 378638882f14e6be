//! Standbys of a server, made with its own pg_basebackup.

use crate::process::Finished;
use crate::{Postgres, Stop};

impl Postgres {
    /// Makes and starts a streaming standby.
    pub fn standby(&self, name: &str) -> Postgres {
        let data = self.site().path(name);
        let mut command = self.client("pg_basebackup");
        command
            .args([
                "--checkpoint=fast",
                "--wal-method=stream",
                "--write-recovery-conf",
                "--no-sync",
                "-D",
            ])
            .arg(&data);
        Finished::run(&mut command).success("pg_basebackup");
        let mut standby = Postgres::adopt(self.site(), self.version(), name, data);
        standby.start();
        standby
    }

    /// Waits until the standby has replayed everything the primary has flushed.
    #[track_caller]
    pub fn wait_standby(&self, standby: &Postgres) {
        let lsn = self.flushed();
        let session = standby.session();
        crate::wait_until(
            "the standby to catch up",
            std::time::Duration::from_secs(60),
            || session.value(&format!("select pg_last_wal_replay_lsn() >= '{lsn}'")) == "t",
        );
    }

    /// Kills this server for good and promotes the standby.
    pub fn fail_over_to(&mut self, standby: &Postgres) {
        self.stop(Stop::Kill);
        standby.promote();
    }
}
