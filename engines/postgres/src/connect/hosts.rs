//! The list of hosts → the first session that fits. The order of attempts is libpq's: hosts, each host's addresses, for each
//! address with and without TLS as `sslmode` allows.

use std::net::{IpAddr, SocketAddr};
use std::path::Path;
use std::time::Duration;

use super::ConnectError;
use super::conninfo::{ConnInfo, Host, Secret, SslMode, TargetSession};
use super::passfile;
use super::tls::Tls;
use super::transport::{Address, Encryption, Transport};

/// One host being tried: what a login needs to know besides the byte stream.
pub(crate) struct Place<'a> {
    pub(crate) info: &'a ConnInfo,
    pub(crate) host: &'a Host,
    /// Host and address, for errors.
    pub(crate) name: String,
}

impl Place<'_> {
    /// The password for this host; see [`passfile::password`].
    pub(crate) fn password(&self, databases: &[&str]) -> Result<Option<Secret>, ConnectError> {
        passfile::password(self.info, self.host, databases)
    }
}

/// A session and what its server said about itself.
pub(crate) struct LoggedIn<T> {
    pub(crate) session: T,
    /// `in_hot_standby`.
    pub(crate) standby: bool,
    /// `default_transaction_read_only`.
    pub(crate) read_only: bool,
}

/// Tries one host after the other until `login` succeeds on a server of the wanted kind.
///
/// A passing failure goes on to the next host; a permanent one (authentication, TLS) ends the search, as in libpq: a
/// misconfigured first host is to be seen, not hidden by the second.
pub(crate) async fn connect_first<'a, T, F, Fut>(
    info: &'a ConnInfo,
    login: F,
) -> Result<T, ConnectError>
where
    F: Fn(Place<'a>, Transport) -> Fut,
    Fut: Future<Output = Result<LoggedIn<T>, ConnectError>>,
{
    let wanted: &[TargetSession] = match info.target_session {
        TargetSession::PreferStandby => &[TargetSession::Standby, TargetSession::Any],
        ref one => std::slice::from_ref(one),
    };
    let mut errors = Vec::new();
    for &wanted in wanted {
        errors.clear();
        for host in &info.hosts {
            match on_host(info, host, wanted, &login).await {
                Ok(session) => return Ok(session),
                Err(error) if error.is_permanent() => return Err(error),
                Err(error) => errors.push(error),
            }
        }
    }
    match errors.len() {
        1 => Err(errors.remove(0)),
        _ => Err(ConnectError::AllHosts(errors)),
    }
}

async fn on_host<'a, T, F, Fut>(
    info: &'a ConnInfo,
    host: &'a Host,
    wanted: TargetSession,
    login: &F,
) -> Result<T, ConnectError>
where
    F: Fn(Place<'a>, Transport) -> Fut,
    Fut: Future<Output = Result<LoggedIn<T>, ConnectError>>,
{
    let mut last = None;
    for (address, name) in addresses(info, host).await? {
        let mut first_way = None;
        for encryption in encryptions(info, host, &address)? {
            let attempt = async {
                let transport =
                    Transport::open(&address, &encryption, info.keepalives, &name).await;
                let name = name.clone();
                login(Place { info, host, name }, transport?).await
            };
            match within(info.connect_timeout, &name, attempt).await {
                Ok(found) if fits(&found, wanted) => {
                    if let Some(error @ ConnectError::Tls { .. }) = first_way {
                        tracing::warn!(%error, "connected without TLS, as sslmode=prefer allows");
                    }
                    return Ok(found.session);
                }
                Ok(_) => {
                    let wanted = wanted.word();
                    return Err(ConnectError::WrongKind {
                        place: name,
                        wanted,
                    });
                }
                Err(error) if other_way_may_help(&error) => {
                    // Refused either way: the first way is the one that was wanted.
                    first_way.get_or_insert(error);
                }
                Err(error) => {
                    first_way = Some(error);
                    break;
                }
            }
        }
        match first_way {
            Some(error) if error.is_permanent() => return Err(error),
            other => last = other.or(last),
        }
    }
    Err(last.unwrap_or_else(|| ConnectError::Settings("a host has no address".into())))
}

/// `pg_hba.conf` may let in with TLS whom it keeps out without, and the other way round. A wrong password stays wrong.
fn other_way_may_help(error: &ConnectError) -> bool {
    match error {
        ConnectError::Refused { error, .. } => error.code == "28000",
        ConnectError::Tls { .. } => true,
        _ => false,
    }
}

fn fits<T>(found: &LoggedIn<T>, wanted: TargetSession) -> bool {
    let read_only = found.standby || found.read_only;
    match wanted {
        TargetSession::Any | TargetSession::PreferStandby => true,
        TargetSession::ReadWrite => !read_only,
        TargetSession::ReadOnly => read_only,
        TargetSession::Primary => !found.standby,
        TargetSession::Standby => found.standby,
    }
}

fn encryptions(
    info: &ConnInfo,
    host: &Host,
    address: &Address,
) -> Result<Vec<Encryption>, ConnectError> {
    if matches!(address, Address::Unix(_)) || info.sslmode == SslMode::Disable {
        return Ok(vec![Encryption::Never]);
    }
    let tls = Tls::new(info, host)?;
    Ok(match info.sslmode {
        SslMode::Allow => vec![Encryption::Never, Encryption::Always(tls)],
        SslMode::Prefer => vec![Encryption::IfOffered(tls), Encryption::Never],
        _ => vec![Encryption::Always(tls)],
    })
}

async fn addresses(info: &ConnInfo, host: &Host) -> Result<Vec<(Address, String)>, ConnectError> {
    let tcp = |address: SocketAddr| {
        let place = match &host.name {
            Some(name) if name.parse::<IpAddr>().is_err() => {
                format!("{name}:{} ({address})", host.port)
            }
            _ => address.to_string(),
        };
        (Address::Tcp(address), place)
    };
    let name = match (&host.name, host.addr) {
        (_, Some(addr)) => return Ok(vec![tcp(SocketAddr::new(addr, host.port))]),
        (Some(name), None) => name,
        (None, None) => return Ok(vec![]),
    };
    if name.starts_with('/') {
        let path = Path::new(name).join(format!(".s.PGSQL.{}", host.port));
        let place = path.display().to_string();
        return Ok(vec![(Address::Unix(path), place)]);
    }
    let lookup = async {
        let found = tokio::net::lookup_host((name.as_str(), host.port)).await;
        found.map_err(|source| ConnectError::Unreachable {
            place: name.clone(),
            source,
        })
    };
    let found = within(info.connect_timeout, name, lookup).await?;
    Ok(found.map(tcp).collect())
}

async fn within<T>(
    limit: Option<Duration>,
    place: &str,
    attempt: impl Future<Output = Result<T, ConnectError>>,
) -> Result<T, ConnectError> {
    match limit {
        None => attempt.await,
        Some(after) => match tokio::time::timeout(after, attempt).await {
            Ok(done) => done,
            Err(_) => Err(ConnectError::TimedOut {
                place: place.into(),
                after,
            }),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_server_fits_by_what_it_said_of_itself() {
        let server = |standby, read_only| LoggedIn {
            session: (),
            standby,
            read_only,
        };
        use TargetSession::*;
        for (wanted, primary, standby, read_only_primary) in [
            (Any, true, true, true),
            (PreferStandby, true, true, true),
            (ReadWrite, true, false, false),
            (ReadOnly, false, true, true),
            (Primary, true, false, true),
            (Standby, false, true, false),
        ] {
            assert_eq!(fits(&server(false, false), wanted), primary, "{wanted:?}");
            assert_eq!(fits(&server(true, false), wanted), standby, "{wanted:?}");
            assert_eq!(
                fits(&server(false, true), wanted),
                read_only_primary,
                "{wanted:?}"
            );
        }
    }

    #[tokio::test]
    async fn every_unreachable_host_is_named() {
        let text = "host=/nonexistent/a,/nonexistent/b user=u target_session_attrs=prefer-standby";
        let info = ConnInfo::parse_with(text, &|_| None).unwrap();
        let login = async |_: Place<'_>, _| -> Result<LoggedIn<()>, ConnectError> {
            unreachable!("nobody is there")
        };
        let error = connect_first(&info, login).await.unwrap_err();
        let text = error.to_string();
        assert!(
            !error.is_permanent()
                && text.contains("none of the 2 hosts")
                && text.contains("/nonexistent/b/.s.PGSQL.5432"),
            "{text}"
        );
    }
}
