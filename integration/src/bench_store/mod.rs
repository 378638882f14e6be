//! An object store in memory for benchmarks: as much of S3 as an archive uses, with so much time added to each call. It keeps the
//! promises that cost a client something: the condition of a put, a checksum that is verified on the way in and told on the way out.
//! It checks no signature, and keeps nothing when it ends.

mod request;

use std::collections::BTreeMap;
use std::io::{self, BufReader, Write};
use std::net::{TcpListener, TcpStream};
use std::ops::Range;
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use base64::Engine;
use base64::engine::general_purpose::STANDARD;

use crate::http_message::read_message;
use request::{Request, wanted};

const KEYS_MAX: usize = 1000;
/// A body so short leaves together with its head.
const TOGETHER_BYTES: usize = 64 << 10;

#[derive(Clone)]
struct Object {
    body: Arc<Vec<u8>>,
    checksum: String,
    modified: String,
}

#[derive(Default)]
struct State {
    objects: BTreeMap<String, Object>,
    counts: BTreeMap<String, u64>,
}

struct Shared {
    state: Mutex<State>,
    delay: Duration,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// The store. It listens until its process ends.
pub struct BenchStore {
    port: u16,
    shared: Arc<Shared>,
}

impl BenchStore {
    /// One that answers each call so much later. It has every bucket.
    pub fn start(delay: Duration) -> io::Result<BenchStore> {
        let listener = TcpListener::bind(("127.0.0.1", 0))?;
        let port = listener.local_addr()?.port();
        let state = Mutex::default();
        let shared = Arc::new(Shared { state, delay });
        let serving = Arc::clone(&shared);
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                let shared = Arc::clone(&serving);
                // A client that breaks off has its reasons.
                thread::spawn(move || drop(serve(&shared, client)));
            }
        });
        Ok(BenchStore { port, shared })
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// Calls so far, by method; a listing counts as `LIST`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.state().counts.clone()
    }
}

fn serve(shared: &Shared, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut client = BufReader::new(client);
    while let Some(message) = read_message(&mut client, None)? {
        thread::sleep(shared.delay);
        let request = Request::of(message);
        let answer = shared.answer(request);
        answer.send(client.get_mut())?;
    }
    Ok(())
}

/// What is answered: the part of a body that was asked for.
struct Answer {
    status: u16,
    headers: String,
    body: Arc<Vec<u8>>,
    part: Range<usize>,
    /// `HEAD` tells how long a body is and does not send it.
    head_only: bool,
}

impl Answer {
    fn empty(status: u16, headers: String) -> Self {
        Self {
            status,
            headers,
            body: Arc::default(),
            part: 0..0,
            head_only: false,
        }
    }

    fn document(status: u16, text: String) -> Self {
        let (headers, part) = ("Content-Type: application/xml\r\n".into(), 0..text.len());
        Self {
            status,
            headers,
            body: Arc::new(text.into_bytes()),
            part,
            head_only: false,
        }
    }

    fn refusal(status: u16, code: &str) -> Self {
        Self::document(
            status,
            format!("<?xml version=\"1.0\"?><Error><Code>{code}</Code></Error>"),
        )
    }

    fn send(&self, client: &mut TcpStream) -> io::Result<()> {
        let (status, headers, length) = (self.status, &self.headers, self.part.len());
        let mut out = format!("HTTP/1.1 {status} S\r\n{headers}Content-Length: {length}\r\n\r\n")
            .into_bytes();
        let body = if self.head_only {
            &[]
        } else {
            &self.body[self.part.clone()]
        };
        if body.len() <= TOGETHER_BYTES {
            out.extend_from_slice(body);
            return client.write_all(&out);
        }
        client.write_all(&out)?;
        client.write_all(body)
    }
}

impl Shared {
    fn answer(&self, request: Request) -> Answer {
        let name = if request.lists() {
            "LIST"
        } else {
            &request.method
        };
        *self.state().counts.entry(name.to_owned()).or_default() += 1;
        match request.method.as_str() {
            "PUT" => self.put(request),
            "GET" if request.lists() => self.list(&request),
            "GET" | "HEAD" => self.get(&request),
            "DELETE" => {
                self.state().objects.remove(&request.path);
                Answer::empty(204, String::new())
            }
            _ => Answer::refusal(501, "NotImplemented"),
        }
    }

    fn put(&self, request: Request) -> Answer {
        let checksum = STANDARD.encode(crc32fast::hash(&request.message.body).to_be_bytes());
        if request
            .header("x-amz-checksum-crc32")
            .is_some_and(|told| told != checksum)
        {
            return Answer::refusal(400, "BadDigest");
        }
        let absent_only = request.header("if-none-match") == Some("*");
        let now = jiff::Timestamp::now();
        let object = Object {
            body: Arc::new(request.message.body),
            modified: now.strftime("%a, %d %b %Y %H:%M:%S GMT").to_string(),
            checksum,
        };
        let headers = object.headers();
        let mut state = self.state();
        if absent_only && state.objects.contains_key(&request.path) {
            return Answer::refusal(412, "PreconditionFailed");
        }
        state.objects.insert(request.path, object);
        Answer::empty(200, headers)
    }

    fn get(&self, request: &Request) -> Answer {
        let Some(object) = self.state().objects.get(&request.path).cloned() else {
            return Answer::refusal(404, "NoSuchKey");
        };
        let (mut headers, length) = (object.headers(), object.body.len());
        let range = request
            .header("range")
            .and_then(|text| wanted(text, length));
        let (status, part) = match range {
            None => (200, 0..length),
            Some(range) if range.is_empty() => return Answer::refusal(416, "InvalidRange"),
            Some(range) => {
                let last = range.end - 1;
                headers.push_str(&format!(
                    "Content-Range: bytes {}-{last}/{length}\r\n",
                    range.start
                ));
                (206, range)
            }
        };
        let head_only = request.method == "HEAD";
        if status == 200 && request.header("x-amz-checksum-mode").is_some() {
            headers.push_str(&format!("x-amz-checksum-crc32: {}\r\n", object.checksum));
        }
        Answer {
            status,
            headers,
            body: object.body,
            part,
            head_only,
        }
    }

    /// One page of the keys in a bucket; with a delimiter names of the next level instead of what lies below them.
    fn list(&self, request: &Request) -> Answer {
        let bucket = format!("{}/", request.path.trim_end_matches('/'));
        let (prefix, delimiter) = (request.asked("prefix"), request.asked("delimiter"));
        let after = request
            .asked("start-after")
            .max(request.asked("continuation-token"));
        let (mut entries, mut last) = (BTreeMap::new(), None::<String>);
        let state = self.state();
        for (path, object) in state.objects.range(format!("{bucket}{prefix}")..) {
            let Some(key) = path
                .strip_prefix(&bucket)
                .filter(|key| key.starts_with(prefix))
            else {
                break;
            };
            let deeper = key[prefix.len()..]
                .split_once(delimiter)
                .filter(|_| !delimiter.is_empty());
            let (name, entry) = match deeper {
                Some((name, _)) => {
                    let name = format!("{prefix}{name}{delimiter}");
                    let entry = format!("<CommonPrefixes><Prefix>{name}</Prefix></CommonPrefixes>");
                    (name, entry)
                }
                None => (
                    key.to_owned(),
                    format!(
                        "<Contents><Key>{key}</Key><Size>{}</Size></Contents>",
                        object.body.len()
                    ),
                ),
            };
            if name.as_str() <= after || entries.contains_key(&name) {
                continue;
            }
            if entries.len() == KEYS_MAX {
                last = entries
                    .last_key_value()
                    .map(|(name, _): (&String, &String)| name.clone());
                break;
            }
            entries.insert(name, entry);
        }
        let next = last.map_or(String::new(), |last| {
            format!("<NextContinuationToken>{last}</NextContinuationToken>")
        });
        let truncated = !next.is_empty();
        let entries: String = entries.into_values().collect();
        Answer::document(
            200,
            format!(
                "<?xml version=\"1.0\"?><ListBucketResult><IsTruncated>{truncated}</IsTruncated>{next}{entries}</ListBucketResult>"
            ),
        )
    }
}

impl Object {
    fn headers(&self) -> String {
        format!(
            "ETag: \"{}\"\r\nLast-Modified: {}\r\n",
            self.checksum, self.modified
        )
    }
}
