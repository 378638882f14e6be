//! A small HTTP/1.1 proxy before an object store. It counts what passes, adds time to each call, and does to a call what a script
//! says: refuses it, loses its answer, cuts bodies, lets them drip.

use std::collections::BTreeMap;
use std::fmt;
use std::io::{self, BufReader, Read, Write};
use std::net::{Shutdown, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread;
use std::time::Duration;

use crate::http_message::{Message, head_with_length, read_message};

/// One call of the store, as it passes.
#[derive(Debug, Clone)]
pub struct Call {
    /// Calls before it.
    pub number: u64,
    /// `PUT`, `GET`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// The access key that signed it.
    pub access_key: String,
    /// It asks for a part of an object.
    pub ranged: bool,
}

impl Call {
    /// True if it puts an object under a key that contains `part`.
    pub fn puts(&self, part: &str) -> bool {
        self.method == "PUT" && self.path.contains(part)
    }

    /// True if it reads an object whose key contains `part`.
    pub fn gets(&self, part: &str) -> bool {
        self.method == "GET" && self.path.contains(part)
    }
}

/// What happens to a call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Fault {
    /// It is answered with this status and S3 code, and does not reach the store.
    Refuse(u16, &'static str),
    /// It reaches the store, and the connection breaks before the answer.
    LoseAnswer,
    /// It reaches the store, and there is never an answer.
    Silence,
    /// The connection breaks in the middle of what is sent to the store.
    BreakRequest,
    /// The connection breaks in the middle of the answer's body.
    BreakAnswer,
    /// The answer's body has half its bytes, and the length says so.
    Truncate,
    /// One bit in the middle of the answer's body is another.
    FlipBit,
    /// The answer's body arrives at a few bytes a second.
    Drip,
}

type Rule = Box<dyn FnMut(&Call) -> Option<Fault> + Send>;

#[derive(Default)]
struct State {
    rule: Option<Rule>,
    calls: u64,
    counts: BTreeMap<String, u64>,
    faults: u64,
}

struct Shared {
    upstream: u16,
    state: Mutex<State>,
    delay_ms: AtomicU64,
    ended: AtomicBool,
}

impl Shared {
    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no holder panics")
    }
}

/// The proxy; it ends when it is dropped.
pub struct FaultProxy {
    port: u16,
    shared: Arc<Shared>,
}

impl fmt::Debug for FaultProxy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultProxy")
            .field("port", &self.port)
            .finish_non_exhaustive()
    }
}

impl FaultProxy {
    /// Before the store that listens at the port `upstream` of 127.0.0.1.
    pub fn start(upstream: u16) -> FaultProxy {
        let listener = TcpListener::bind(("127.0.0.1", 0)).expect("listen");
        let port = listener
            .local_addr()
            .expect("a listener has an address")
            .port();
        let shared = Arc::new(Shared {
            upstream,
            state: Mutex::default(),
            delay_ms: AtomicU64::new(0),
            ended: AtomicBool::new(false),
        });
        let accepting = shared.clone();
        thread::spawn(move || {
            for client in listener.incoming().flatten() {
                if accepting.ended.load(Ordering::Relaxed) {
                    return;
                }
                let shared = accepting.clone();
                // A broken connection is what is wanted, or the end of one.
                thread::spawn(move || drop(serve(&shared, client)));
            }
        });
        FaultProxy { port, shared }
    }

    /// Where it listens.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// From now on every call takes so much longer.
    pub fn delay(&self, time: Duration) {
        self.shared
            .delay_ms
            .store(time.as_millis() as u64, Ordering::Relaxed);
    }

    /// From now on `rule` says what happens to a call; where it says nothing the call passes.
    pub fn script(&self, rule: impl FnMut(&Call) -> Option<Fault> + Send + 'static) {
        self.shared.state().rule = Some(Box::new(rule));
    }

    /// The next `times` calls for which `matches` holds suffer `fault`.
    pub fn inject(
        &self,
        mut times: u64,
        fault: Fault,
        matches: impl Fn(&Call) -> bool + Send + 'static,
    ) {
        self.script(move |call| {
            if times == 0 || !matches(call) {
                return None;
            }
            times -= 1;
            Some(fault)
        });
    }

    /// From now on all is well again.
    pub fn heal(&self) {
        self.shared.state().rule = None;
    }

    /// Faults that happened so far.
    pub fn faults(&self) -> u64 {
        self.shared.state().faults
    }

    /// Calls so far, by method; a listing counts as `LIST`.
    pub fn counts(&self) -> BTreeMap<String, u64> {
        self.shared.state().counts.clone()
    }
}

impl Drop for FaultProxy {
    fn drop(&mut self) {
        self.shared.ended.store(true, Ordering::Relaxed);
        // Wakes the thread that accepts.
        let _ = TcpStream::connect(("127.0.0.1", self.port));
    }
}

fn serve(shared: &Shared, client: TcpStream) -> io::Result<()> {
    client.set_nodelay(true)?;
    let mut upstream = BufReader::new(TcpStream::connect(("127.0.0.1", shared.upstream))?);
    upstream.get_ref().set_nodelay(true)?;
    let mut client = BufReader::new(client);
    while let Some(request) = read_message(&mut client, None)? {
        let fault = admit(shared, &request);
        thread::sleep(Duration::from_millis(
            shared.delay_ms.load(Ordering::Relaxed),
        ));
        match fault {
            Some(Fault::Refuse(status, code)) => {
                refuse(client.get_mut(), status, code, &request)?;
                continue;
            }
            Some(Fault::BreakRequest) => {
                let half = &request.body[..request.body.len() / 2];
                upstream.get_mut().write_all(&request.head)?;
                upstream.get_mut().write_all(half)?;
                return upstream.get_ref().shutdown(Shutdown::Both);
            }
            _ => {}
        }
        upstream.get_mut().write_all(&request.head)?;
        upstream.get_mut().write_all(&request.body)?;
        let method = request.first_line.split(' ').next();
        let answer = read_message(&mut upstream, method)?.ok_or(io::ErrorKind::UnexpectedEof)?;
        answer_with(shared, client.get_mut(), answer, fault)?;
        if matches!(
            fault,
            Some(Fault::LoseAnswer | Fault::BreakAnswer | Fault::Silence)
        ) {
            return client.get_ref().shutdown(Shutdown::Both);
        }
    }
    Ok(())
}

/// Counts a call and asks the script.
fn admit(shared: &Shared, request: &Message) -> Option<Fault> {
    let mut words = request.first_line.split(' ');
    let method = words.next().unwrap_or_default().to_owned();
    let path = words.next().unwrap_or_default().to_owned();
    let signed = request
        .headers
        .get("authorization")
        .map_or("", String::as_str);
    let credential = signed
        .split_once("Credential=")
        .map_or("", |(_, rest)| rest);
    let access_key = credential.split('/').next().unwrap_or_default().to_owned();
    let listing = path.contains("list-type=2");
    let name = if listing { "LIST" } else { &method }.to_owned();
    let mut state = shared.state();
    let call = Call {
        number: state.calls,
        method,
        path,
        access_key,
        ranged: request.headers.contains_key("range"),
    };
    state.calls += 1;
    *state.counts.entry(name).or_default() += 1;
    let fault = state.rule.as_mut().and_then(|rule| rule(&call));
    state.faults += u64::from(fault.is_some());
    fault
}

fn refuse(client: &mut TcpStream, status: u16, code: &str, request: &Message) -> io::Result<()> {
    let body = if request.first_line.starts_with("HEAD") {
        String::new()
    } else {
        format!(
            "<?xml version=\"1.0\"?><Error><Code>{code}</Code><Message>as the script says</Message></Error>"
        )
    };
    write!(
        client,
        "HTTP/1.1 {status} Refused\r\nContent-Type: application/xml\r\nContent-Length: {}\r\n\r\n{body}",
        body.len()
    )
}

fn answer_with(
    shared: &Shared,
    client: &mut TcpStream,
    mut answer: Message,
    fault: Option<Fault>,
) -> io::Result<()> {
    let half = answer.body.len() / 2;
    match fault {
        Some(Fault::LoseAnswer) => return Ok(()),
        Some(Fault::Silence) => {
            // Until the client has had enough: it closes, or we end.
            while !shared.ended.load(Ordering::Relaxed) {
                client.set_read_timeout(Some(Duration::from_millis(200)))?;
                match client.read(&mut [0]) {
                    Err(error)
                        if matches!(
                            error.kind(),
                            io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut
                        ) => {}
                    _ => return Ok(()),
                }
            }
            return Ok(());
        }
        Some(Fault::BreakAnswer) => {
            client.write_all(&answer.head)?;
            return client.write_all(&answer.body[..half]);
        }
        Some(Fault::Truncate) => {
            answer.body.truncate(half);
            answer.head = head_with_length(&answer, half);
        }
        Some(Fault::FlipBit) if !answer.body.is_empty() => answer.body[half] ^= 0x10,
        Some(Fault::Drip) => {
            client.write_all(&answer.head)?;
            for piece in answer.body.chunks(16) {
                thread::sleep(Duration::from_secs(1));
                client.write_all(piece)?;
            }
            return Ok(());
        }
        _ => {}
    }
    client.write_all(&answer.head)?;
    client.write_all(&answer.body)
}
