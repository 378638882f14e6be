//! Ordinary SQL: `tokio-postgres` over our own transport, so that hosts, TLS and passwords are settled in one place.

use std::future::{Ready, ready};
use std::io;
use std::pin::Pin;
use std::task::{Context, Poll};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio_postgres::config::{self, SslNegotiation};
use tokio_postgres::error::{DbError, SqlState};
use tokio_postgres::tls::{ChannelBinding as BindingData, TlsConnect, TlsStream};
use tokio_postgres::{Client, Config};

use super::conninfo::{ChannelBinding, ConnInfo};
use super::hosts::{LoggedIn, Place, connect_first};
use super::transport::{Transport, UNBOUND};
use super::{ConnectError, ServerError};

/// A session for ordinary SQL with `dbname`, or with the connection string's database. The task that drives the connection
/// is spawned on the current runtime and ends when the client is dropped.
///
/// # Errors
/// [`ConnectError`]; see its `is_permanent`.
pub async fn connect_sql(info: &ConnInfo, dbname: Option<&str>) -> Result<Client, ConnectError> {
    let dbname = dbname.unwrap_or(&info.dbname);
    connect_first(info, |place, transport| login(place, transport, dbname)).await
}

async fn login(
    place: Place<'_>,
    transport: Transport,
    dbname: &str,
) -> Result<LoggedIn<Client>, ConnectError> {
    let info = place.info;
    let refused = |reason: &str| ConnectError::Authentication {
        place: place.name.clone(),
        reason: reason.into(),
    };
    if info.channel_binding == ChannelBinding::Require {
        transport.can_bind().map_err(refused)?;
    }
    let mut config = Config::new();
    config.user(&info.user).dbname(dbname);
    // A password file that cannot be used matters only if the server asks for a password.
    let missing = match place.password(&[dbname]) {
        Ok(Some(password)) => {
            config.password(password.bytes());
            None
        }
        Ok(None) => Some(no_password(&place.name)),
        Err(error) => Some(error),
    };
    if let Some(name) = &info.application_name {
        config.application_name(name);
    }
    if let Some(options) = &info.options {
        config.options(options);
    }
    config.channel_binding(match info.channel_binding {
        ChannelBinding::Disable => config::ChannelBinding::Disable,
        ChannelBinding::Prefer => config::ChannelBinding::Prefer,
        ChannelBinding::Require => config::ChannelBinding::Require,
    });
    // The transport is already encrypted or meant not to be: "direct" asks the server for nothing more.
    config.ssl_mode(config::SslMode::Require);
    config.ssl_negotiation(SslNegotiation::Direct);
    let connected = config.connect_raw(transport, Settled).await;
    let (client, connection) = connected.map_err(|error| explain(&error, &place.name, missing))?;
    let is_on = |name| connection.parameter(name) == Some("on");
    let (standby, read_only) = (
        is_on("in_hot_standby"),
        is_on("default_transaction_read_only"),
    );
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "SQL connection ended");
        }
    });
    Ok(LoggedIn {
        session: client,
        standby,
        read_only,
    })
}

/// The error of a session for which nobody gave a password.
pub(crate) fn no_password(place: &str) -> ConnectError {
    ConnectError::Authentication {
        place: place.into(),
        reason: "the server wants a password and none is set; use passfile (or ~/.pgpass), PGPASSWORD or password".into(),
    }
}

fn explain(
    error: &tokio_postgres::Error,
    place: &str,
    missing: Option<ConnectError>,
) -> ConnectError {
    if let Some(error) = error.as_db_error() {
        return ConnectError::Refused {
            place: place.into(),
            error: Box::new(server_error(error)),
        };
    }
    let source = std::error::Error::source(error);
    if let Some(source) = source.and_then(|s| s.downcast_ref::<io::Error>()) {
        return ConnectError::broke(place, source);
    }
    let place = place.to_owned();
    let reason = source.map_or_else(|| error.to_string(), ToString::to_string);
    match missing {
        Some(missing) if reason.contains("password") => missing,
        _ if error.is_closed() => ConnectError::Unreachable {
            place,
            source: io::ErrorKind::UnexpectedEof.into(),
        },
        _ if reason.contains("channel binding") => ConnectError::Authentication {
            place,
            reason: UNBOUND.into(),
        },
        _ => ConnectError::Authentication { place, reason },
    }
}

fn server_error(error: &DbError) -> ServerError {
    let code: &SqlState = error.code();
    ServerError {
        severity: error.severity().into(),
        code: code.code().into(),
        message: error.message().into(),
        detail: error.detail().map(str::to_owned),
        hint: error.hint().map(str::to_owned),
    }
}

/// Stands where `tokio-postgres` would do its TLS handshake.
struct Settled;

impl TlsConnect<Transport> for Settled {
    type Stream = SettledStream;
    type Error = io::Error;
    type Future = Ready<io::Result<SettledStream>>;

    fn connect(self, stream: Transport) -> Self::Future {
        ready(Ok(SettledStream(stream)))
    }
}

struct SettledStream(Transport);

impl TlsStream for SettledStream {
    fn channel_binding(&self) -> BindingData {
        match self.0.end_point() {
            Some(data) => BindingData::tls_server_end_point(data.to_vec()),
            None => BindingData::none(),
        }
    }
}

impl AsyncRead for SettledStream {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_read(cx, buf)
    }
}

impl AsyncWrite for SettledStream {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.get_mut().0).poll_write(cx, buf)
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_flush(cx)
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.get_mut().0).poll_shutdown(cx)
    }
}
