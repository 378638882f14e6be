//! Transport ↔ frames. Reads go into large blocks, and frames are windows into them: WAL is not copied on its way.
//!
//! Memory: a block is filled to its end before the next one is begun, so what the caller keeps of it costs what it is worth;
//! blocks that nobody keeps are used again.

use std::future::poll_fn;
use std::io;
use std::pin::{Pin, pin};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use bytes::{Buf, BytesMut};
use tokio::io::{AsyncReadExt, AsyncWrite};

use super::decode::{FRAME_BYTES_MAX, Frame, frame_bytes, parse_error, parse_frame};
use super::error::ReplicationError;
use crate::connect::Transport;

/// Eight of the largest WAL messages; larger blocks fall out of the processor's cache.
const BLOCK_BYTES: usize = 1 << 20;
/// A block with less room than this is left, so that reads stay large.
const READ_BYTES_MIN: usize = 256 << 10;
const SPARE_BLOCKS_MAX: usize = 2;
/// Unsent bytes above which nothing more is queued.
const UNSENT_BYTES_MAX: usize = 1 << 20;

/// Frames to and from one server.
pub(super) struct Wire {
    transport: Transport,
    /// What was read and not yet taken, and the room behind it.
    block: BytesMut,
    /// Handles on earlier blocks, free for use once nobody holds a window into them.
    spare: Vec<BytesMut>,
    unsent: BytesMut,
    /// Bytes were handed to the transport and may still lie in its TLS session.
    unflushed: bool,
    /// Writing failed; only reading makes sense.
    deaf: bool,
    frame_bytes_max: usize,
}

impl Wire {
    /// A wire on which no frame may be larger than `frame_bytes_max` for now.
    pub(super) fn new(transport: Transport, frame_bytes_max: usize) -> Self {
        Self {
            transport,
            block: BytesMut::new(),
            spare: Vec::new(),
            unsent: BytesMut::new(),
            unflushed: false,
            deaf: false,
            frame_bytes_max,
        }
    }

    /// Lifts the limit to what an authenticated server may send.
    pub(super) fn trust(&mut self) {
        self.frame_bytes_max = FRAME_BYTES_MAX;
    }

    pub(super) fn transport(&self) -> &Transport {
        &self.transport
    }

    /// Nothing that was read is left.
    pub(super) fn is_drained(&self) -> bool {
        self.block.is_empty()
    }

    /// What arrives wakes nobody until the next read or write.
    pub(super) fn lay_aside(&mut self) {
        self.transport.lay_aside();
    }

    /// The next message that is not a notice or a changed setting; what the server reports as an error is one here.
    /// Cancel safe: what was read stays for the next call.
    pub(super) async fn message(&mut self) -> Result<Frame, ReplicationError> {
        poll_fn(|cx| self.poll_message(cx)).await
    }

    /// [`Self::message`], or an error if none comes in time.
    pub(super) async fn message_within(
        &mut self,
        within: Duration,
    ) -> Result<Frame, ReplicationError> {
        match tokio::time::timeout(within, self.message()).await {
            Ok(message) => message,
            Err(_) => Err(ReplicationError::TimedOut {
                what: "answer",
                after: within,
            }),
        }
    }

    fn poll_message(&mut self, cx: &mut Context<'_>) -> Poll<Result<Frame, ReplicationError>> {
        loop {
            let frame = ready!(self.poll_frame(cx))?;
            match frame.tag {
                b'N' => {
                    let notice = parse_error(frame.body);
                    tracing::debug!(code = notice.code, "server: {}", notice.message);
                }
                b'S' | b'A' => {}
                b'E' => {
                    let error = parse_error(frame.body);
                    return Poll::Ready(Err(ReplicationError::from_server(error)));
                }
                _ => return Poll::Ready(Ok(frame)),
            }
        }
    }

    /// Any next frame.
    pub(super) fn poll_frame(
        &mut self,
        cx: &mut Context<'_>,
    ) -> Poll<Result<Frame, ReplicationError>> {
        loop {
            if let Some(frame) = parse_frame(&mut self.block, self.frame_bytes_max)? {
                return Poll::Ready(Ok(frame));
            }
            // An answer that is stuck in our buffer must not wait for the server to speak first.
            let _ = self.poll_send(cx);
            self.make_room()?;
            match ready!(self.poll_fill(cx)) {
                Ok(0) => {
                    let error =
                        io::Error::new(io::ErrorKind::UnexpectedEof, "the server closed it");
                    return Poll::Ready(Err(ReplicationError::Lost(error)));
                }
                Ok(_) => {}
                Err(error) => return Poll::Ready(Err(ReplicationError::Lost(error))),
            }
        }
    }

    fn poll_fill(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        // This future keeps nothing between polls, so a fresh one each time loses nothing.
        pin!(self.transport.read_buf(&mut self.block)).poll(cx)
    }

    /// Makes room behind the unread bytes for a large read and for the whole of the frame that has begun.
    fn make_room(&mut self) -> Result<(), ReplicationError> {
        let unread = self.block.len();
        let frame = frame_bytes(&self.block, self.frame_bytes_max)?.unwrap_or(0);
        let room = self.block.capacity() - unread;
        if room >= READ_BYTES_MIN.max(frame.saturating_sub(unread)) {
            return Ok(());
        }
        let wanted = BLOCK_BYTES.max(frame + READ_BYTES_MIN);
        let free = self
            .spare
            .iter_mut()
            .position(|block| block.try_reclaim(wanted));
        let mut block = match free {
            Some(at) => self.spare.swap_remove(at),
            None => BytesMut::with_capacity(wanted),
        };
        block.extend_from_slice(&self.block);
        self.block.clear();
        let full = std::mem::replace(&mut self.block, block);
        if self.spare.len() == SPARE_BLOCKS_MAX {
            self.spare.remove(0);
        }
        self.spare.push(full);
        Ok(())
    }

    /// Queues what `write` appends.
    pub(super) fn queue(
        &mut self,
        write: impl FnOnce(&mut BytesMut) -> io::Result<()>,
    ) -> Result<(), ReplicationError> {
        if self.deaf {
            return Ok(());
        }
        if self.unsent.len() > UNSENT_BYTES_MAX {
            let error = io::Error::new(
                io::ErrorKind::WouldBlock,
                "the server takes none of our bytes",
            );
            return Err(ReplicationError::Lost(error));
        }
        let queued = self.unsent.len();
        write(&mut self.unsent).map_err(|error| {
            // Half a message must not go out.
            self.unsent.truncate(queued);
            ReplicationError::Unsupported(format!("the message cannot be sent: {error}"))
        })
    }

    /// Sends what is queued. Cancel safe: what is not sent stays queued. A lost connection shows only when it is read.
    pub(super) async fn send(&mut self, within: Duration) -> Result<(), ReplicationError> {
        match tokio::time::timeout(within, poll_fn(|cx| self.poll_send(cx))).await {
            Ok(()) => Ok(()),
            Err(_) => Err(ReplicationError::TimedOut {
                what: "take our message",
                after: within,
            }),
        }
    }

    /// A server that hangs up has often said why, and that still lies unread: what cannot be written is dropped, and reading
    /// goes on until it finds the reason or the end.
    fn poll_send(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let sent = ready!(self.poll_write(cx));
        if let Err(error) = sent {
            tracing::debug!(%error, "the server takes nothing more");
            self.unsent.clear();
            self.deaf = true;
        }
        Poll::Ready(())
    }

    fn poll_write(&mut self, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        let mut transport = Pin::new(&mut self.transport);
        while !self.unsent.is_empty() {
            let sent = ready!(transport.as_mut().poll_write(cx, &self.unsent))?;
            if sent == 0 {
                return Poll::Ready(Err(io::ErrorKind::WriteZero.into()));
            }
            self.unsent.advance(sent);
            self.unflushed = true;
        }
        if self.unflushed && !self.deaf {
            ready!(transport.poll_flush(cx))?;
            self.unflushed = false;
        }
        Poll::Ready(Ok(()))
    }
}
