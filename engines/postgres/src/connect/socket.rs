//! A TCP or unix socket that can be laid aside. The runtime is woken for every packet of a socket it watches, wanted or not; a server
//! under load sends thousands of small ones a second, which a reader that takes them in gulps need not hear of.

use std::os::unix::net;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::{io, mem};

use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpStream, UnixStream};

/// A socket. Reads and writes are cancel safe.
pub(super) enum Socket {
    Tcp(TcpStream),
    Unix(UnixStream),
    /// The runtime does not know of it.
    TcpAside(std::net::TcpStream),
    UnixAside(net::UnixStream),
    /// The runtime did not let go of it, or did not take it up again.
    Lost,
}

impl Socket {
    /// Whatever arrives, nobody is woken for it until the next read or write. Both see it if the socket is lost by it.
    pub(super) fn lay_aside(&mut self) {
        let aside = match mem::replace(self, Self::Lost) {
            Self::Tcp(stream) => stream.into_std().map(Self::TcpAside),
            Self::Unix(stream) => stream.into_std().map(Self::UnixAside),
            other => Ok(other),
        };
        *self = aside.unwrap_or(Self::Lost);
    }

    fn take_up(&mut self) -> io::Result<()> {
        if !matches!(self, Self::TcpAside(_) | Self::UnixAside(_)) {
            return Ok(());
        }
        *self = match mem::replace(self, Self::Lost) {
            Self::TcpAside(stream) => Self::Tcp(TcpStream::from_std(stream)?),
            Self::UnixAside(stream) => Self::Unix(UnixStream::from_std(stream)?),
            other => other,
        };
        Ok(())
    }
}

macro_rules! delegate {
    ($self:ident, $stream:ident => $call:expr) => {{
        let socket = $self.get_mut();
        socket.take_up()?;
        match socket {
            Self::Tcp($stream) => $call,
            Self::Unix($stream) => $call,
            _ => Poll::Ready(Err(io::ErrorKind::NotConnected.into())),
        }
    }};
}

impl AsyncRead for Socket {
    fn poll_read(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
        buf: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        delegate!(self, stream => Pin::new(stream).poll_read(cx, buf))
    }
}

impl AsyncWrite for Socket {
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

#[cfg(test)]
mod tests {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    use tokio::net::TcpListener;

    use super::*;

    async fn goes_on(mut socket: Socket, mut peer: impl AsyncRead + AsyncWrite + Unpin) {
        for _ in 0..2 {
            let mut read = [0; 4];
            peer.write_all(b"be").await.unwrap();
            socket.lay_aside();
            socket.lay_aside();
            let aside = matches!(socket, Socket::TcpAside(_) | Socket::UnixAside(_));
            assert!(aside, "the runtime still watches it");
            peer.write_all(b"fore").await.unwrap();
            socket.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"befo");
            socket.lay_aside();
            socket.write_all(b"from").await.unwrap();
            socket.read_exact(&mut read[..2]).await.unwrap();
            assert_eq!(&read[..2], b"re");
            peer.read_exact(&mut read).await.unwrap();
            assert_eq!(&read, b"from");
        }
        socket.lay_aside();
        drop(peer);
        assert_eq!(socket.read(&mut [0; 4]).await.unwrap(), 0);
    }

    #[tokio::test]
    async fn a_socket_that_was_laid_aside_loses_nothing() {
        let (ours, peer) = UnixStream::pair().unwrap();
        goes_on(Socket::Unix(ours), peer).await;
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let ours = TcpStream::connect(listener.local_addr().unwrap());
        let (ours, peer) = tokio::join!(ours, listener.accept());
        goes_on(Socket::Tcp(ours.unwrap()), peer.unwrap().0).await;
    }
}
