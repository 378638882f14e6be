//! Host → a byte stream to the server: a TCP or unix socket, wrapped in TLS if both sides want it.

use std::io;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::pin::Pin;
use std::task::{Context, Poll};

use bytes::BytesMut;
use postgres_protocol::message::frontend;
use rustix::net::sockopt;
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, ReadBuf};
use tokio::net::{TcpStream, UnixStream};
use tokio_rustls::client::TlsStream;

use super::ConnectError;
use super::conninfo::Keepalives;
use super::socket::Socket;
use super::tls::{Tls, end_point};

/// Why `channel_binding=require` refuses a server that could bind and does not.
pub(crate) const UNBOUND: &str = "channel_binding=require, but the server does not bind the password exchange to TLS; set password_encryption and pg_hba.conf to scram-sha-256 there";

/// Where one attempt goes.
pub(super) enum Address {
    Tcp(SocketAddr),
    Unix(PathBuf),
}

/// What one attempt does about TLS.
pub(super) enum Encryption {
    Never,
    IfOffered(Tls),
    Always(Tls),
}

/// A byte stream to a server. Reads and writes are cancel safe, as those of the sockets are.
pub(crate) struct Transport {
    stream: Stream,
    is_local: bool,
    end_point: Option<Vec<u8>>,
}

enum Stream {
    Plain(Socket),
    Tls(Box<TlsStream<Socket>>),
}

impl Transport {
    /// Opens the socket and, if so asked, TLS on it. `place` is for errors.
    pub(super) async fn open(
        address: &Address,
        encryption: &Encryption,
        keepalives: Keepalives,
        place: &str,
    ) -> Result<Self, ConnectError> {
        let unreachable = |source| ConnectError::Unreachable {
            place: place.into(),
            source,
        };
        let plain = |socket, is_local| Self {
            stream: Stream::Plain(socket),
            is_local,
            end_point: None,
        };
        let address = match address {
            Address::Unix(path) => {
                let socket = UnixStream::connect(path).await.map_err(unreachable)?;
                return Ok(plain(Socket::Unix(socket), true));
            }
            Address::Tcp(address) => address,
        };
        let mut tcp = TcpStream::connect(address).await.map_err(unreachable)?;
        configure(&tcp, keepalives).map_err(unreachable)?;
        let is_local = is_local(&tcp);
        let (tls, always) = match encryption {
            Encryption::Never => return Ok(plain(Socket::Tcp(tcp), is_local)),
            Encryption::IfOffered(tls) => (tls, false),
            Encryption::Always(tls) => (tls, true),
        };
        let mut request = BytesMut::new();
        frontend::ssl_request(&mut request);
        tcp.write_all(&request).await.map_err(unreachable)?;
        // One byte and no more: what comes after it must already be inside TLS.
        let reason = match tcp.read_u8().await.map_err(unreachable)? {
            b'S' => match tls.handshake(Socket::Tcp(tcp)).await {
                Ok(stream) => {
                    return Ok(Self {
                        end_point: end_point(&stream),
                        is_local,
                        stream: Stream::Tls(Box::new(stream)),
                    });
                }
                Err(reason) => reason,
            },
            b'N' if !always => return Ok(plain(Socket::Tcp(tcp), is_local)),
            b'N' => {
                "the server does not offer it; set ssl = on there, or choose another sslmode".into()
            }
            other => {
                return Err(ConnectError::Protocol {
                    place: place.into(),
                    what: format!("the byte 0x{other:02X} in answer to a request for TLS"),
                });
            }
        };
        Err(ConnectError::Tls {
            place: place.into(),
            reason,
        })
    }

    /// Whether the peer is on this host.
    pub(crate) fn is_local(&self) -> bool {
        self.is_local
    }

    /// What arrives wakes nobody until the next read or write.
    pub(crate) fn lay_aside(&mut self) {
        match &mut self.stream {
            Stream::Plain(socket) => socket.lay_aside(),
            Stream::Tls(tls) => tls.get_mut().0.lay_aside(),
        }
    }

    /// Whether TLS is in use.
    pub(crate) fn is_encrypted(&self) -> bool {
        matches!(self.stream, Stream::Tls(_))
    }

    /// Why `channel_binding=require` cannot be had on this stream, if so.
    pub(crate) fn can_bind(&self) -> Result<(), &'static str> {
        match (self.is_encrypted(), &self.end_point) {
            (true, Some(_)) => Ok(()),
            (true, None) => Err(
                "channel_binding=require, but the hash of the server's certificate is not defined; use an RSA or ECDSA certificate",
            ),
            (false, _) => Err(
                "channel_binding=require needs TLS; set sslmode to require or stronger (a unix socket has none)",
            ),
        }
    }

    /// `tls-server-end-point` data, if the channel can be bound to.
    pub(crate) fn end_point(&self) -> Option<&[u8]> {
        self.end_point.as_deref()
    }
}

fn is_local(tcp: &TcpStream) -> bool {
    match (tcp.peer_addr(), tcp.local_addr()) {
        (Ok(peer), Ok(ours)) => peer.ip().is_loopback() || peer.ip() == ours.ip(),
        _ => false,
    }
}

fn configure(tcp: &TcpStream, keepalives: Keepalives) -> io::Result<()> {
    tcp.set_nodelay(true)?;
    sockopt::set_socket_keepalive(tcp, keepalives.enabled)?;
    if keepalives.enabled {
        if let Some(idle) = keepalives.idle {
            sockopt::set_tcp_keepidle(tcp, idle)?;
        }
        if let Some(interval) = keepalives.interval {
            sockopt::set_tcp_keepintvl(tcp, interval)?;
        }
        if let Some(count) = keepalives.count {
            sockopt::set_tcp_keepcnt(tcp, count)?;
        }
    }
    if let Some(timeout) = keepalives.user_timeout {
        sockopt::set_tcp_user_timeout(tcp, u32::try_from(timeout.as_millis()).unwrap_or(u32::MAX))?;
    }
    Ok(())
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {
        match &mut $self.get_mut().stream {
            Stream::Plain($stream) => $call,
            Stream::Tls($stream) => $call,
        }
    };
}

impl AsyncRead for Transport {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Transport {
    fn poll_write(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &[u8],
    ) -> Poll<io::Result<usize>> {
        delegate!(self, stream => Pin::new(stream).poll_write(cx, buf))
    }

    fn poll_flush(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_flush(cx))
    }

    fn poll_shutdown(self: Pin<&mut Self>, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_shutdown(cx))
    }
}
