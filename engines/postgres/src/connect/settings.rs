//! Pairs and environment → [`ConnInfo`]: values read, defaults filled in, contradictions refused.

use std::net::IpAddr;
use std::path::PathBuf;
use std::time::Duration;

use zeroize::Zeroize;

use super::conninfo::{
    ChannelBinding, ConnInfo, Host, Keepalives, Secret, SslMode, TargetSession, TlsVersion,
};
use super::keywords::{KNOWN, REFUSED_ENVIRONMENT, check};
use super::syntax;

const PORT: u16 = 5432;
const CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

type Environment<'a> = &'a dyn Fn(&str) -> Option<String>;

/// Reads a connection string; the error is a sentence without any value of it that may be secret.
pub(super) fn read(text: &str, environment: Environment<'_>) -> Result<ConnInfo, String> {
    let settings = Settings::collect(text, environment)?;
    let home = environment("HOME").map(PathBuf::from);
    let user = match settings.get("user") {
        Some(user) => user.to_owned(),
        None => operating_system_user().ok_or("the connection string names no user, and the operating system has no name for this one; set user=")?,
    };
    let passfile = settings.path("passfile");
    let names = ["application_name", "fallback_application_name"];
    Ok(ConnInfo {
        hosts: hosts(&settings)?,
        dbname: settings.get("dbname").unwrap_or(&user).to_owned(),
        user,
        password: settings.get("password").map(|p| Secret::new(p.into())),
        password_file: None,
        passfile_named: passfile.is_some(),
        passfile: passfile.or_else(|| Some(home.as_ref()?.join(".pgpass"))),
        sslmode: sslmode(&settings)?,
        sslrootcert: settings.path("sslrootcert"),
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
        application_name: names
            .iter()
            .find_map(|k| settings.get(k))
            .map(str::to_owned),
        target_session: settings.word(
            "target_session_attrs",
            TargetSession::read,
            TargetSession::Any,
        )?,
        options: settings.get("options").map(str::to_owned),
        keepalives: keepalives(&settings)?,
    })
}

fn sslmode(settings: &Settings) -> Result<SslMode, String> {
    let mode = settings.word("sslmode", SslMode::read, SslMode::Prefer)?;
    if settings.get("sslrootcert") != Some("system") || mode == SslMode::VerifyFull {
        return Ok(mode);
    }
    match settings.get("sslmode") {
        None => Ok(SslMode::VerifyFull),
        Some(_) => Err(format!(
            "sslmode={} is too weak for sslrootcert=system, where anybody can have a certificate; use verify-full",
            mode.word()
        )),
    }
}

fn keepalives(settings: &Settings) -> Result<Keepalives, String> {
    let seconds = |n: u32| Duration::from_secs(n.into());
    let milliseconds = |n: u32| Duration::from_millis(n.into());
    Ok(Keepalives {
        enabled: settings.number("keepalives")? != Some(0),
        idle: settings.or_system("keepalives_idle", 60)?.map(seconds),
        interval: settings.or_system("keepalives_interval", 10)?.map(seconds),
        count: settings.or_system("keepalives_count", 6)?,
        user_timeout: settings
            .or_system("tcp_user_timeout", 120_000)?
            .map(milliseconds),
    })
}

/// Pairs of keyword and value, the environment's first. Wiped when dropped: one of them may be a password.
struct Settings(Vec<(String, String)>);

impl Drop for Settings {
    fn drop(&mut self) {
        for (_, value) in &mut self.0 {
            value.zeroize();
        }
    }
}

impl Settings {
    fn collect(text: &str, environment: Environment<'_>) -> Result<Self, String> {
        for (variable, keyword) in REFUSED_ENVIRONMENT {
            if environment(variable).is_some_and(|v| !v.is_empty()) {
                return Err(format!(
                    "the environment variable {variable} is set, but {keyword} is not supported here; unset it"
                ));
            }
        }
        let mut settings = Self(Vec::new());
        for (keyword, variable) in KNOWN {
            if let Some(value) = variable.and_then(environment) {
                settings.0.push(((*keyword).to_owned(), value));
            }
        }
        for (keyword, value) in syntax::pairs(text)? {
            if value.contains('\0') {
                return Err(format!("the value of {keyword} contains a zero byte"));
            }
            if check(&keyword, &value)? {
                settings.0.push((keyword, value));
            }
        }
        Ok(settings)
    }

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

    /// A number for which 0 means that the operating system decides.
    fn or_system(&self, keyword: &str, default: u32) -> Result<Option<u32>, String> {
        let number = self.number(keyword)?.unwrap_or(default);
        Ok((number > 0).then_some(number))
    }

    fn path(&self, keyword: &str) -> Option<PathBuf> {
        self.get(keyword).map(PathBuf::from)
    }
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
mod tests;
