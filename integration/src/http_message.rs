//! Messages of HTTP/1.1 as the proxy before an object store reads them: whole, bodies included.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};
use std::net::TcpStream;

/// A request or an answer.
pub(crate) struct Message {
    /// First line and headers, with the empty line.
    pub(crate) head: Vec<u8>,
    pub(crate) body: Vec<u8>,
    pub(crate) first_line: String,
    pub(crate) headers: BTreeMap<String, String>,
}

/// First line and headers of a message whose body has another length now.
pub(crate) fn head_with_length(message: &Message, length: usize) -> Vec<u8> {
    let mut head = format!("{}\r\n", message.first_line);
    for (name, value) in &message.headers {
        match name.as_str() {
            "content-length" => head.push_str(&format!("content-length: {length}\r\n")),
            _ => head.push_str(&format!("{name}: {value}\r\n")),
        }
    }
    (head + "\r\n").into_bytes()
}

/// Reads a request (`answers` is `None`) or the answer to the method `answers`. `None` at the end of the connection.
pub(crate) fn read_message(
    stream: &mut BufReader<TcpStream>,
    answers: Option<&str>,
) -> io::Result<Option<Message>> {
    let mut lines: Vec<String> = Vec::new();
    loop {
        let mut line = String::new();
        if stream.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let line = line.trim_end_matches(['\r', '\n']).to_owned();
        if !line.is_empty() {
            lines.push(line);
        } else if !lines.is_empty() {
            break;
        }
    }
    let pairs = lines[1..].iter().filter_map(|line| line.split_once(':'));
    let headers: BTreeMap<String, String> = pairs
        .map(|(name, value)| (name.to_ascii_lowercase(), value.trim().to_owned()))
        .collect();
    if headers.contains_key("expect") {
        stream
            .get_mut()
            .write_all(b"HTTP/1.1 100 Continue\r\n\r\n")?;
    }
    let mut message = Message {
        head: Vec::new(),
        body: Vec::new(),
        first_line: lines[0].clone(),
        headers,
    };
    let empty = answers == Some("HEAD")
        || matches!(message.first_line.split(' ').nth(1), Some("204" | "304"));
    let length = message
        .headers
        .get("content-length")
        .and_then(|text| text.parse().ok());
    if empty {
        message.head = (lines.join("\r\n") + "\r\n\r\n").into_bytes();
        return Ok(Some(message));
    }
    if message
        .headers
        .get("transfer-encoding")
        .is_some_and(|coding| coding.contains("chunked"))
    {
        message.body = read_chunks(stream)?;
        message.headers.remove("transfer-encoding");
        message
            .headers
            .insert("content-length".into(), String::new());
        message.head = head_with_length(&message, message.body.len());
    } else {
        message.body = vec![0; length.unwrap_or(0)];
        stream.read_exact(&mut message.body)?;
        // What the client expects was answered here.
        message.headers.remove("expect");
        let length = message.body.len();
        message
            .headers
            .insert("content-length".into(), String::new());
        message.head = head_with_length(&message, length);
    }
    Ok(Some(message))
}

fn read_chunks(stream: &mut BufReader<TcpStream>) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    loop {
        let mut line = String::new();
        stream.read_line(&mut line)?;
        let size = line.split(';').next().unwrap_or_default().trim();
        let size = usize::from_str_radix(size, 16).map_err(|_| io::ErrorKind::InvalidData)?;
        let start = body.len();
        body.resize(start + size, 0);
        stream.read_exact(&mut body[start..])?;
        let mut end = [0; 2];
        stream.read_exact(&mut end)?;
        if size == 0 {
            return Ok(body);
        }
    }
}
