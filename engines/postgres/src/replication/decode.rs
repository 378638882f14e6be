//! Bytes of a server → messages. Pure, total and bounded: whatever the bytes, an answer or an error, never a panic.
//!
//! Facts: PostgreSQL documentation, "Frontend/Backend Protocol", chapters "Message Formats" and "Streaming Replication Protocol".

use bytes::{Buf, Bytes, BytesMut};

use crate::Lsn;
use crate::connect::ServerError;

/// The largest frame that is accepted. Servers send at most 128 KiB of WAL at once and smaller pieces of a base backup; the
/// room is for long timeline histories and error messages.
pub const FRAME_BYTES_MAX: usize = 16 << 20;
const FIELDS_MAX: usize = 1664;
/// Microseconds from the Unix epoch to PostgreSQL's, 2000-01-01.
pub(super) const POSTGRES_EPOCH: i64 = 946_684_800_000_000;

/// The server broke the protocol; the text says how.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct DecodeError(pub String);

fn broken<T>(what: impl Into<String>) -> Result<T, DecodeError> {
    Err(DecodeError(what.into()))
}

/// One message: its type byte and what follows the length.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    /// The type byte, such as `d` for CopyData.
    pub tag: u8,
    /// The contents.
    pub body: Bytes,
}

/// Takes the first frame off `buffer`, without copying. `Ok(None)`: more bytes are needed.
///
/// # Errors
/// A length below 4 or above `bytes_max`.
pub fn parse_frame(buffer: &mut BytesMut, bytes_max: usize) -> Result<Option<Frame>, DecodeError> {
    let Some(total) = frame_bytes(buffer, bytes_max)? else {
        return Ok(None);
    };
    if buffer.len() < total {
        return Ok(None);
    }
    let tag = buffer[0];
    buffer.advance(5);
    let body = buffer.split_to(total - 5).freeze();
    Ok(Some(Frame { tag, body }))
}

/// How long the first frame of `buffer` is with its five bytes of head, once those are there.
pub(super) fn frame_bytes(buffer: &[u8], bytes_max: usize) -> Result<Option<usize>, DecodeError> {
    let Some((&[tag, a, b, c, d], _)) = buffer.split_first_chunk() else {
        return Ok(None);
    };
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    if length < 4 || length > bytes_max {
        return broken(format!(
            "a message of type 0x{tag:02X} claims {length} bytes; 4 to {bytes_max} are allowed"
        ));
    }
    Ok(Some(length + 1))
}

/// What the server wants of us before it lets us in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Authentication {
    /// Nothing more.
    Ok,
    /// The password as it is.
    Cleartext,
    /// MD5 of the password, salted.
    Md5([u8; 4]),
    /// One of these SASL mechanisms.
    Sasl(Vec<String>),
    /// The server's part of a SASL exchange.
    SaslContinue(Bytes),
    /// The server's last part.
    SaslFinal(Bytes),
    /// A method that is not spoken here, by its number.
    Other(u32),
}

/// Reads an `R` message.
///
/// # Errors
/// Too short, or mechanisms that are not a list of text.
pub fn parse_authentication(mut body: Bytes) -> Result<Authentication, DecodeError> {
    if body.len() < 4 {
        return broken("an authentication request without a method");
    }
    Ok(match body.get_u32() {
        0 => Authentication::Ok,
        3 => Authentication::Cleartext,
        5 => match body.first_chunk() {
            Some(salt) => Authentication::Md5(*salt),
            None => return broken("an MD5 request without its salt"),
        },
        10 => {
            let mut mechanisms = Vec::new();
            loop {
                match text(&mut body)? {
                    name if name.is_empty() => break,
                    name if mechanisms.len() < 32 => mechanisms.push(name),
                    _ => return broken("a long list of SASL mechanisms"),
                }
            }
            Authentication::Sasl(mechanisms)
        }
        11 => Authentication::SaslContinue(body),
        12 => Authentication::SaslFinal(body),
        other => Authentication::Other(other),
    })
}

/// Text up to a zero byte, which is taken too.
pub(super) fn text(body: &mut Bytes) -> Result<String, DecodeError> {
    let Some(end) = body.iter().position(|&b| b == 0) else {
        return broken("text without its end");
    };
    let text = String::from_utf8_lossy(&body.split_to(end)).into_owned();
    body.advance(1);
    Ok(text)
}

/// Reads an `E` or `N` message. Total: fields that are missing stay empty.
#[must_use]
pub fn parse_error(mut body: Bytes) -> ServerError {
    let mut error = ServerError::default();
    while let Some(&field) = body.first().filter(|&&f| f != 0) {
        body.advance(1);
        let Ok(text) = text(&mut body) else { break };
        match field {
            b'V' => error.severity = text,
            b'S' if error.severity.is_empty() => error.severity = text,
            b'C' => error.code = text,
            b'M' => error.message = text,
            b'D' => error.detail = Some(text),
            b'H' => error.hint = Some(text),
            _ => {}
        }
    }
    error
}

/// Reads a `T` message: the names of the columns.
///
/// # Errors
/// Fewer bytes than the count of columns promises.
pub fn parse_row_description(mut body: Bytes) -> Result<Vec<String>, DecodeError> {
    let count = count(&mut body)?;
    (0..count)
        .map(|_| {
            let name = text(&mut body)?;
            if body.len() < 18 {
                return broken("a row description that ends early");
            }
            body.advance(18);
            Ok(name)
        })
        .collect()
}

/// Reads a `D` message: the values of a row, `None` for NULL, without copying.
///
/// # Errors
/// Fewer bytes than the lengths promise.
pub fn parse_data_row(mut body: Bytes) -> Result<Vec<Option<Bytes>>, DecodeError> {
    let count = count(&mut body)?;
    (0..count)
        .map(|_| {
            if body.len() < 4 {
                return broken("a row that ends early");
            }
            match body.get_i32() {
                -1 => Ok(None),
                length => match usize::try_from(length) {
                    Ok(length) if length <= body.len() => Ok(Some(body.split_to(length))),
                    _ => broken("a value that is longer than its row"),
                },
            }
        })
        .collect()
}

fn count(body: &mut Bytes) -> Result<usize, DecodeError> {
    if body.len() < 2 {
        return broken("a row without a count of columns");
    }
    match usize::from(body.get_u16()) {
        count if count <= FIELDS_MAX => Ok(count),
        count => broken(format!("a row of {count} columns")),
    }
}

/// One message of a WAL stream.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WalMessage {
    /// WAL bytes.
    Wal {
        /// LSN of the first byte.
        start: Lsn,
        /// End of WAL on the server when it sent this.
        server_end: Lsn,
        /// The server's clock then, microseconds since the Unix epoch.
        clock: i64,
        /// The bytes; a window into the receive block.
        data: Bytes,
    },
    /// A sign of life.
    Keepalive {
        /// End of WAL on the server.
        server_end: Lsn,
        /// The server's clock, microseconds since the Unix epoch.
        clock: i64,
        /// The server disconnects soon unless a status comes.
        reply_requested: bool,
    },
    /// The server has sent all there is on this timeline; see `WalStream::finish`.
    Ended,
}

/// Reads the CopyData contents of a physical replication stream.
///
/// # Errors
/// Another kind of message, a length that does not fit, or WAL past the last LSN.
pub fn parse_wal_message(mut body: Bytes) -> Result<WalMessage, DecodeError> {
    match body.first() {
        Some(b'w') if body.len() >= 25 => {
            body.advance(1);
            let (start, server_end, clock) = (body.get_u64(), body.get_u64(), clock(&mut body));
            if start.checked_add(body.len() as u64).is_none() {
                return broken("WAL past the last possible LSN");
            }
            Ok(WalMessage::Wal {
                start: Lsn(start),
                server_end: Lsn(server_end),
                clock,
                data: body,
            })
        }
        Some(b'k') if body.len() == 18 => {
            body.advance(1);
            let (server_end, clock) = (Lsn(body.get_u64()), clock(&mut body));
            let reply_requested = body.get_u8() != 0;
            Ok(WalMessage::Keepalive {
                server_end,
                clock,
                reply_requested,
            })
        }
        Some(kind) => broken(format!(
            "a replication message of kind 0x{kind:02X} with {} bytes",
            body.len()
        )),
        None => broken("an empty replication message"),
    }
}

fn clock(body: &mut Bytes) -> i64 {
    body.get_i64().saturating_add(POSTGRES_EPOCH)
}

/// One message of a base backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum BackupMessage {
    /// A tar archive begins.
    Archive {
        /// Its file name, such as `base.tar` or `16384.tar`.
        name: String,
        /// The tablespace's directory; empty for the main one.
        location: String,
    },
    /// The manifest begins.
    Manifest,
    /// Bytes of what began last.
    Data(Bytes),
    /// Bytes done so far in the current archive.
    Progress(u64),
}

/// Reads the CopyData contents of a base backup.
///
/// # Errors
/// Another kind of message or a length that does not fit.
pub fn parse_backup_message(mut body: Bytes) -> Result<BackupMessage, DecodeError> {
    if body.is_empty() {
        return broken("an empty base backup message");
    }
    match body.get_u8() {
        b'd' => Ok(BackupMessage::Data(body)),
        b'n' => {
            let (name, location) = (text(&mut body)?, text(&mut body)?);
            Ok(BackupMessage::Archive { name, location })
        }
        b'm' if body.is_empty() => Ok(BackupMessage::Manifest),
        b'p' if body.len() == 8 => Ok(BackupMessage::Progress(body.get_u64())),
        kind => broken(format!(
            "a base backup message of kind 0x{kind:02X} with {} bytes",
            body.len() + 1
        )),
    }
}

/// Splits `bytes` into frames and reads each in every way its type allows; the entry for fuzzing.
///
/// # Errors
/// The first thing that is wrong.
pub fn decode_any(bytes: &[u8]) -> Result<(), DecodeError> {
    let mut buffer = BytesMut::from(bytes);
    while let Some(Frame { tag, body }) = parse_frame(&mut buffer, FRAME_BYTES_MAX)? {
        match tag {
            b'R' => drop(parse_authentication(body)?),
            b'E' | b'N' => drop(parse_error(body)),
            b'T' => drop(parse_row_description(body)?),
            b'D' => drop(parse_data_row(body)?),
            b'd' => {
                let backup = parse_backup_message(body.clone());
                drop(parse_wal_message(body).or(Err(DecodeError(String::new()))));
                backup?;
            }
            _ => {}
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests;
