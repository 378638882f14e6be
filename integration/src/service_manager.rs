//! Stands where systemd does: a socket on which a daemon says how it is.

use std::os::unix::net::UnixDatagram;
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use crate::{Site, wait_until};

/// How long a state may take to come.
const PATIENCE: Duration = Duration::from_secs(60);
/// How soon it wants to hear from a service at the latest, µs.
const WATCHDOG_USEC: &str = "2000000";

/// Listens until it is dropped. Who is not listened to would be held up.
#[derive(Debug)]
pub struct ServiceManager {
    socket: PathBuf,
    said: Arc<Mutex<Vec<String>>>,
    stop: Arc<AtomicBool>,
    listener: Option<JoinHandle<()>>,
}

impl ServiceManager {
    /// Listens in a site.
    pub fn listen(site: &Site) -> ServiceManager {
        let socket = site.path("notify");
        let listening = UnixDatagram::bind(&socket).expect("bind the notification socket");
        site.own(&socket);
        let turn = Some(Duration::from_millis(50));
        listening.set_read_timeout(turn).expect("set a timeout");
        let said = Arc::new(Mutex::new(Vec::new()));
        let stop = Arc::new(AtomicBool::new(false));
        let (hears, stops) = (said.clone(), stop.clone());
        let listener = std::thread::spawn(move || {
            let mut bytes = vec![0; 64 * 1024];
            while !stops.load(Ordering::Relaxed) {
                let Ok(count) = listening.recv(&mut bytes) else {
                    continue;
                };
                let text = String::from_utf8_lossy(&bytes[..count]).into_owned();
                let mut said = hears.lock().expect("nobody panics with it");
                said.extend(text.lines().map(str::to_owned));
            }
        });
        ServiceManager {
            socket,
            said,
            stop,
            listener: Some(listener),
        }
    }

    /// What a service of it finds in its environment.
    pub fn environment(&self) -> Vec<(String, String)> {
        let socket = self.socket.display().to_string();
        vec![
            ("NOTIFY_SOCKET".to_owned(), socket),
            ("WATCHDOG_USEC".to_owned(), WATCHDOG_USEC.to_owned()),
        ]
    }

    /// How often something was said, `READY=1` for instance.
    pub fn count(&self, word: &str) -> usize {
        let said = self.said.lock().expect("nobody panics with it");
        said.iter().filter(|line| *line == word).count()
    }

    /// The value that `name` was given last; empty before that.
    pub fn value(&self, name: &str) -> String {
        let said = self.said.lock().expect("nobody panics with it");
        let value = said
            .iter()
            .rev()
            .find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
        value.unwrap_or_default().to_owned()
    }

    /// Waits until the value of `name` is as wanted, and returns it.
    #[track_caller]
    pub fn wait(&self, name: &str, wanted: impl Fn(&str) -> bool) -> String {
        let mut value = String::new();
        wait_until(&format!("another {name}"), PATIENCE, || {
            value = self.value(name);
            wanted(&value)
        });
        value
    }
}

impl Drop for ServiceManager {
    fn drop(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        if let Some(listener) = self.listener.take() {
            // It may be dropped while a test panics.
            let _ = listener.join();
        }
    }
}
