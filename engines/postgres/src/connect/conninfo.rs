//! Pairs and environment → [`ConnInfo`]: where to connect, as whom, and how much the other side has to prove.

use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroizing;

use super::ConnectError;
use super::keywords::{KNOWN, REFUSED_ENVIRONMENT, check};
use super::syntax;

const PORT: u16 = 5432;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

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

            fn read(keyword: &str, word: &str) -> Result<Self, String> {
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

/// How a silent TCP peer is noticed. `None` leaves it to the operating system.
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
    /// How long sent bytes may stay unacknowledged.
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
    /// Limit for each host, from the first packet to a ready session. `None` waits for ever (`connect_timeout=0`).
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

    /// Uses this password, whatever the connection string said.
    pub fn set_password(&mut self, password: Secret) {
        self.password = Some(password);
    }

    /// Sets the application name unless the connection string or the environment chose one.
    pub fn default_application_name(&mut self, name: &str) {
        self.application_name.get_or_insert_with(|| name.to_owned());
    }
}

struct Settings(Vec<(String, String)>);

impl Settings {
    /// The last value given, or the environment's; an empty one counts as none.
    fn get(&self, keyword: &str) -> Option<&str> {
        let found = self.0.iter().rev().find(|(k, _)| k == keyword);
        found.map(|(_, v)| v.as_str()).filter(|v| !v.is_empty())
    }

    fn word<T>(
        &self,
        keyword: &str,
        read: fn(&str, &str) -> Result<T, String>,
        default: T,
    ) -> Result<T, String> {
        self.get(keyword)
            .map_or(Ok(default), |word| read(keyword, word))
    }

    fn number(&self, keyword: &str) -> Result<Option<u32>, String> {
        let read = |text: &str| {
            let number: i32 = text
                .trim()
                .parse()
                .map_err(|_| format!("{keyword} in the connection string is not a whole number"))?;
            Ok(u32::try_from(number).unwrap_or(0))
        };
        self.get(keyword).map(read).transpose()
    }

    fn seconds(&self, keyword: &str) -> Result<Option<Duration>, String> {
        let seconds = self.number(keyword)?.filter(|&n| n > 0);
        Ok(seconds.map(|n| Duration::from_secs(n.into())))
    }

    fn path(&self, keyword: &str) -> Option<PathBuf> {
        self.get(keyword).map(PathBuf::from)
    }
}

fn read(text: &str, environment: &dyn Fn(&str) -> Option<String>) -> Result<ConnInfo, String> {
    let given = syntax::pairs(text)?;
    let mut pairs = Vec::new();
    for (variable, keyword) in REFUSED_ENVIRONMENT {
        if environment(variable).is_some_and(|v| !v.is_empty()) {
            return Err(format!(
                "the environment variable {variable} is set, but {keyword} is not supported here; unset it"
            ));
        }
    }
    for (keyword, variable) in KNOWN {
        if let Some(value) = variable.and_then(environment) {
            pairs.push(((*keyword).to_owned(), value));
        }
    }
    for (keyword, value) in given {
        if value.contains('\0') {
            return Err(format!("the value of {keyword} contains a zero byte"));
        }
        if check(&keyword, &value)? {
            pairs.push((keyword, value));
        }
    }
    let settings = Settings(pairs);
    let home = environment("HOME").map(PathBuf::from);
    let user = match settings.get("user") {
        Some(user) => user.to_owned(),
        None => operating_system_user().ok_or("the connection string names no user, and the operating system has no name for this one; set user=")?,
    };
    let sslmode = settings.word("sslmode", SslMode::read, SslMode::Prefer)?;
    let sslrootcert = settings.path("sslrootcert");
    let system_roots = sslrootcert
        .as_ref()
        .is_some_and(|p| p.as_os_str() == "system");
    let sslmode = match settings.get("sslmode") {
        None if system_roots => SslMode::VerifyFull,
        Some(_) if system_roots && sslmode < SslMode::VerifyFull => {
            return Err(format!(
                "sslmode={} is too weak for sslrootcert=system, where anybody can have a certificate; use verify-full",
                sslmode.word()
            ));
        }
        _ => sslmode,
    };
    let passfile = settings.path("passfile");
    Ok(ConnInfo {
        hosts: hosts(&settings)?,
        dbname: settings.get("dbname").unwrap_or(&user).to_owned(),
        user,
        password: settings.get("password").map(|p| Secret::new(p.into())),
        passfile_named: passfile.is_some(),
        passfile: passfile.or_else(|| Some(home.as_ref()?.join(".pgpass"))),
        sslmode,
        sslrootcert,
        sslcert: settings.path("sslcert"),
        sslkey: settings.path("sslkey"),
        home,
        sslsni: settings.number("sslsni")? != Some(0),
        tls_version_min: settings.word(
            "ssl_min_protocol_version",
            TlsVersion::read,
            TlsVersion::V12,
        )?,
        channel_binding: settings.word(
            "channel_binding",
            ChannelBinding::read,
            ChannelBinding::Prefer,
        )?,
        connect_timeout: match settings.number("connect_timeout")? {
            None => Some(CONNECT_TIMEOUT),
            Some(0) => None,
            Some(seconds) => Some(Duration::from_secs(seconds.into())),
        },
        application_name: settings
            .get("application_name")
            .or(settings.get("fallback_application_name"))
            .map(str::to_owned),
        target_session: settings.word(
            "target_session_attrs",
            TargetSession::read,
            TargetSession::Any,
        )?,
        options: settings.get("options").map(str::to_owned),
        keepalives: Keepalives {
            enabled: settings.number("keepalives")? != Some(0),
            idle: settings.seconds("keepalives_idle")?,
            interval: settings.seconds("keepalives_interval")?,
            count: settings.number("keepalives_count")?.filter(|&n| n > 0),
            user_timeout: settings
                .number("tcp_user_timeout")?
                .filter(|&n| n > 0)
                .map(|ms| Duration::from_millis(ms.into())),
        },
    })
}

fn hosts(settings: &Settings) -> Result<Vec<Host>, String> {
    let list = |keyword| {
        settings
            .get(keyword)
            .map(|v| v.split(',').collect::<Vec<_>>())
    };
    let (names, addrs) = (list("host"), list("hostaddr"));
    let count = match (&names, &addrs) {
        (Some(names), Some(addrs)) if names.len() != addrs.len() => {
            return Err(format!(
                "the connection string has {} host and {} hostaddr: each host needs its address",
                names.len(),
                addrs.len()
            ));
        }
        (Some(list), _) | (None, Some(list)) => list.len(),
        (None, None) => 1,
    };
    let ports = list("port").unwrap_or_default();
    if ports.len() > 1 && ports.len() != count {
        return Err(format!(
            "the connection string has {count} hosts and {} ports: give one port, or one for each host",
            ports.len()
        ));
    }
    let entry = |list: &Option<Vec<&str>>, at: usize| {
        let entry = list.as_ref()?.get(at)?.trim();
        (!entry.is_empty()).then(|| entry.to_owned())
    };
    (0..count)
        .map(|at| {
            let addr = entry(&addrs, at).map(|text| {
                text.parse::<IpAddr>().map_err(|_| format!("hostaddr {text:?} is not an IP address; a name belongs in host"))
            });
            let addr = addr.transpose()?;
            let name = entry(&names, at);
            if name.as_ref().is_some_and(|name| name.starts_with('@')) {
                return Err("sockets in the abstract namespace (host=@…) are not supported; name the socket's directory".into());
            }
            let name = if addr.is_none() { name.or_else(|| Some(socket_directory())) } else { name };
            let port = match ports.get(if ports.len() == 1 { 0 } else { at }).map(|p| p.trim()) {
                None | Some("") => PORT,
                Some(text) => text.parse().ok().filter(|&p| p != 0).ok_or_else(|| format!("port {text:?} is not a number from 1 to 65535"))?,
            };
            Ok(Host { name, addr, port })
        })
        .collect()
}

/// Where libpq would look for a socket: Debian's directory, or PostgreSQL's own.
fn socket_directory() -> String {
    let debian = "/var/run/postgresql";
    let found = std::path::Path::new(debian).is_dir();
    if found { debian } else { "/tmp" }.to_owned()
}

/// The name of this process's user. `/etc/passwd` is read as text: what only a directory service knows must be given.
fn operating_system_user() -> Option<String> {
    let uid = rustix::process::geteuid().as_raw().to_string();
    let passwd = std::fs::read_to_string("/etc/passwd").ok()?;
    let mut lines = passwd.lines().map(|line| line.split(':'));
    lines.find_map(|mut fields| {
        let name = fields.next()?;
        (fields.nth(1)? == uid).then(|| name.to_owned())
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn parse(text: &str) -> Result<ConnInfo, String> {
        with_environment(text, &[])
    }

    fn with_environment(text: &str, environment: &[(&str, &str)]) -> Result<ConnInfo, String> {
        let find = |name: &str| {
            let found = environment.iter().find(|(n, _)| *n == name);
            found.map(|(_, v)| (*v).to_owned())
        };
        ConnInfo::parse_with(text, &find).map_err(|e| e.to_string())
    }

    #[test]
    fn hosts_take_their_ports_and_addresses_in_order() {
        let info = parse("host=a,/run/pg,b hostaddr=,,10.0.0.1 port=1,,3 user=u").unwrap();
        let host = |name: &str, addr: Option<&str>, port| Host {
            name: Some(name.into()),
            addr: addr.map(|a| a.parse().unwrap()),
            port,
        };
        assert_eq!(
            info.hosts,
            [
                host("a", None, 1),
                host("/run/pg", None, 5432),
                host("b", Some("10.0.0.1"), 3)
            ]
        );
        let one_port = parse("host=a,b port=7 user=u").unwrap();
        assert!(one_port.hosts.iter().all(|h| h.port == 7));
        assert_eq!(parse("hostaddr=::1 user=u").unwrap().hosts[0].name, None);
        assert!(
            parse("user=u").unwrap().hosts[0]
                .name
                .as_ref()
                .is_some_and(|n| n.starts_with('/'))
        );
        for wrong in [
            "host=a,b port=1,2,3",
            "host=a hostaddr=1.1.1.1,2.2.2.2",
            "port=0",
            "port=x",
            "port=65536",
            "hostaddr=db",
            "host=@x",
        ] {
            assert!(parse(&format!("user=u {wrong}")).is_err(), "{wrong}");
        }
    }

    #[test]
    fn the_environment_fills_what_the_string_leaves_open() {
        let environment = [
            ("PGHOST", "env"),
            ("PGUSER", "u"),
            ("PGSSLMODE", "verify-full"),
            ("HOME", "/h"),
        ];
        let info = with_environment("host=string", &environment).unwrap();
        assert_eq!(info.hosts[0].name.as_deref(), Some("string"));
        assert_eq!((info.user.as_str(), info.dbname.as_str()), ("u", "u"));
        assert_eq!(info.sslmode, SslMode::VerifyFull);
        assert_eq!(info.passfile, Some("/h/.pgpass".into()));
        let refused = with_environment("user=u", &[("PGSERVICE", "prod")]).unwrap_err();
        assert!(refused.contains("PGSERVICE"), "{refused}");
    }

    #[test]
    fn what_is_not_understood_is_refused_with_the_nearest_keyword() {
        let error = parse("user=u sslmod=require").unwrap_err();
        assert_eq!(
            error,
            "unknown connection keyword \"sslmod\"; did you mean \"sslmode\"?"
        );
        assert_eq!(
            parse("user=u zzzzzzzz=1").unwrap_err(),
            "unknown connection keyword \"zzzzzzzz\""
        );
        for refused in [
            "require_auth=scram-sha-256",
            "sslcrl=x",
            "gssencmode=require",
            "service=x",
            "sslmode=on",
            "replication=true",
        ] {
            assert!(parse(&format!("user=u {refused}")).is_err(), "{refused}");
        }
        assert!(parse("user=u gssencmode=prefer client_encoding=UTF8").is_ok());
    }

    #[test]
    fn system_roots_insist_on_the_host_name() {
        assert_eq!(
            parse("user=u sslrootcert=system").unwrap().sslmode,
            SslMode::VerifyFull
        );
        assert!(parse("user=u sslrootcert=system sslmode=verify-ca").is_err());
    }

    #[test]
    fn zero_waits_for_ever_and_silence_means_thirty_seconds() {
        assert_eq!(
            parse("user=u connect_timeout=0").unwrap().connect_timeout,
            None
        );
        assert_eq!(
            parse("user=u").unwrap().connect_timeout,
            Some(Duration::from_secs(30))
        );
        assert_eq!(
            parse("user=u connect_timeout=5").unwrap().connect_timeout,
            Some(Duration::from_secs(5))
        );
        assert!(parse("user=u connect_timeout=5s").is_err());
    }

    #[test]
    fn the_string_s_own_name_beats_the_program_s() {
        let mut info = parse("user=u application_name=mine").unwrap();
        info.default_application_name("pitrd");
        assert_eq!(info.application_name.as_deref(), Some("mine"));
    }

    proptest! {
        #[test]
        fn no_password_is_ever_shown(password in "[a-zA-Z0-9]{12,30}") {
            let mut info = parse(&format!("user=u password={password}")).unwrap();
            let shown = format!("{info:?}");
            prop_assert!(!shown.contains(&password));
            info.set_password(Secret::new(password.clone().into_bytes()));
            let shown = format!("{info:?}");
            prop_assert!(!shown.contains(&password));
        }

        #[test]
        fn no_text_panics(text in "(host|port|hostaddr|keepalives|sslmode)?=?\\PC*") {
            let _ = parse(&text);
        }
    }
}
