//! What a connection string means: where to connect, as whom, and how much the other side has to prove.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::ConnectError;
use super::settings::read;

/// A password. Wiped from memory when dropped, and never shown.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Zeroizing<Vec<u8>>);

impl Secret {
    /// Takes the bytes of a password.
    #[must_use]
    pub fn new(bytes: Vec<u8>) -> Self {
        Self(Zeroizing::new(bytes))
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("***")
    }
}

/// A setting that is one word of a closed list, spelled as libpq spells it.
macro_rules! words {
    ($(#[$doc:meta])* $name:ident { $($(#[$variant_doc:meta])* $variant:ident = $word:literal),+ $(,)? }) => {
        $(#[$doc])*
        #[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Debug)]
        pub enum $name { $($(#[$variant_doc])* $variant),+ }

        impl $name {
            /// The word of the connection string.
            #[must_use]
            pub fn word(self) -> &'static str {
                match self { $(Self::$variant => $word),+ }
            }

            pub(super) fn read(keyword: &str, word: &str) -> Result<Self, String> {
                match word {
                    $($word => Ok(Self::$variant),)+
                    _ => Err(format!("{keyword}={word} is not one of {}", [$($word),+].join(", "))),
                }
            }
        }
    };
}

words! {
    /// How much TLS is asked for, weakest first.
    SslMode {
        /// Never TLS.
        Disable = "disable",
        /// TLS only if the server refuses a connection without.
        Allow = "allow",
        /// TLS if the server has it.
        Prefer = "prefer",
        /// TLS; the certificate is checked only if `sslrootcert` exists.
        Require = "require",
        /// TLS, and the certificate comes from a trusted authority.
        VerifyCa = "verify-ca",
        /// TLS, and the certificate comes from a trusted authority and names the host.
        VerifyFull = "verify-full",
    }
}

words! {
    /// Whether the password exchange must be bound to the TLS channel.
    ChannelBinding {
        /// Never.
        Disable = "disable",
        /// When possible.
        Prefer = "prefer",
        /// Or no session.
        Require = "require",
    }
}

words! {
    /// Which kind of server to accept.
    TargetSession {
        /// Any.
        Any = "any",
        /// One that accepts writes.
        ReadWrite = "read-write",
        /// One that does not.
        ReadOnly = "read-only",
        /// One that is not in recovery.
        Primary = "primary",
        /// One that is in recovery.
        Standby = "standby",
        /// One that is in recovery, or else any.
        PreferStandby = "prefer-standby",
    }
}

words! {
    /// The oldest TLS version to accept; what is older than 1.2 is never spoken.
    TlsVersion {
        /// 1.0: read as 1.2.
        V1 = "TLSv1",
        /// 1.1: read as 1.2.
        V11 = "TLSv1.1",
        /// 1.2.
        V12 = "TLSv1.2",
        /// 1.3.
        V13 = "TLSv1.3",
    }
}

/// One entry of the host list.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Host {
    /// A name, an address, or the directory of a unix socket (starts with `/`). Also what a certificate must name.
    pub name: Option<String>,
    /// The address to use instead of looking `name` up.
    pub addr: Option<IpAddr>,
    /// TCP port, also part of a unix socket's name.
    pub port: u16,
}

/// How a silent TCP peer is noticed. `None` (0 in the connection string) leaves it to the operating system.
///
/// Unlike libpq, whose sessions are short, an unset keyword is not left to the operating system, which would notice a lost
/// network after hours: probes begin after 60 s, come every 10 s, and 6 without an answer end the connection.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Keepalives {
    /// Whether probes are sent at all.
    pub enabled: bool,
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Probes without an answer before the connection is given up.
    pub count: Option<u32>,
    /// How long sent bytes may stay unacknowledged; 120 s if unset.
    pub user_timeout: Option<Duration>,
}

/// Everything a connection string says, defaults filled in. `Debug` shows no password.
#[derive(Clone, PartialEq, Eq, Debug)]
#[non_exhaustive]
pub struct ConnInfo {
    /// Tried in this order.
    pub hosts: Vec<Host>,
    /// The role.
    pub user: String,
    /// The password, if one was given; otherwise the password file is asked.
    pub password: Option<Secret>,
    /// A file with the password and nothing else, which counts more and is read for every connection.
    pub(super) password_file: Option<PathBuf>,
    /// The password file, and whether somebody named it (then it has to exist).
    pub passfile: Option<PathBuf>,
    pub(super) passfile_named: bool,
    /// The database for ordinary SQL.
    pub dbname: String,
    /// How much TLS.
    pub sslmode: SslMode,
    /// Trusted authorities in PEM, or the word `system`.
    pub sslrootcert: Option<PathBuf>,
    /// Client certificate chain in PEM.
    pub sslcert: Option<PathBuf>,
    /// Its private key in PEM.
    pub sslkey: Option<PathBuf>,
    /// Where `~/.postgresql` is, for the three files above when they are not named.
    pub(super) home: Option<PathBuf>,
    /// Whether the host name is sent in the clear in the TLS handshake.
    pub sslsni: bool,
    /// The oldest TLS version.
    pub tls_version_min: TlsVersion,
    /// Whether the password exchange is bound to the TLS channel.
    pub channel_binding: ChannelBinding,
    /// Limit for each host, from the first packet to a ready session; 30 s if unset. `None` waits for ever
    /// (`connect_timeout=0`).
    pub connect_timeout: Option<Duration>,
    /// The name the server shows, and by which `synchronous_standby_names` knows us.
    pub application_name: Option<String>,
    /// Which kind of server to accept.
    pub target_session: TargetSession,
    /// Command-line options for the server process.
    pub options: Option<String>,
    /// How a silent peer is noticed.
    pub keepalives: Keepalives,
}

impl ConnInfo {
    /// Reads a libpq connection string (`host=db user=x` or `postgresql://x@db/`), with the `PG*` environment
    /// variables as defaults.
    ///
    /// # Errors
    /// [`ConnectError::Settings`], with a sentence that names the keyword or variable.
    pub fn parse(text: &str) -> Result<Self, ConnectError> {
        Self::parse_with(text, &|name| std::env::var(name).ok())
    }

    /// [`Self::parse`] with another environment.
    ///
    /// # Errors
    /// As there.
    pub fn parse_with(
        text: &str,
        environment: &dyn Fn(&str) -> Option<String>,
    ) -> Result<Self, ConnectError> {
        read(text, environment).map_err(ConnectError::Settings)
    }

    /// Uses the password in this file, whatever the connection string said. It is read for every connection, so that the password can
    /// be changed while a daemon runs.
    pub fn set_password_file(&mut self, path: PathBuf) {
        self.password_file = Some(path);
    }

    /// Sets the application name unless the connection string or the environment chose one.
    pub fn default_application_name(&mut self, name: &str) {
        self.application_name.get_or_insert_with(|| name.to_owned());
    }
}
