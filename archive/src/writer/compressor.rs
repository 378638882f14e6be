//! Compression on every core: a fixed pool, so that threads, and zstd's contexts in them, do not grow with the load.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, mpsc};

use bytes::Bytes;
use tokio::sync::{OwnedSemaphorePermit, oneshot};

use crate::object::{FRAME_BYTES_MAX, Frame};

/// Free buffers that are kept.
const BUFFERS_KEPT: usize = 6;

/// What stands for memory in use is counted in KiB.
pub(super) const KIB: usize = 1024;

type Job = Box<dyn FnOnce() + Send>;

/// A frame in the making, and then the memory it stands for.
pub(super) type PendingFrame = oneshot::Receiver<(Frame, OwnedSemaphorePermit)>;

/// A pool of compressing threads. They end when the last handle is dropped.
#[derive(Clone, Debug)]
pub struct Compressor {
    jobs: mpsc::Sender<Job>,
    /// Frames' plaintext buffers that are free: a megabyte from the system costs more than reading it.
    buffers: Arc<Mutex<Vec<Vec<u8>>>>,
    /// Jobs that no thread has taken yet.
    waiting: Arc<AtomicUsize>,
}

impl Compressor {
    /// One thread for every core that this process may use.
    ///
    /// # Panics
    /// If the operating system gives no threads.
    #[must_use]
    pub fn new() -> Self {
        let (jobs, queue) = mpsc::channel::<Job>();
        let queue = Arc::new(Mutex::new(queue));
        let threads = std::thread::available_parallelism().map_or(2, usize::from);
        for number in 0..threads {
            let queue = Arc::clone(&queue);
            let run = move || {
                loop {
                    let job = queue
                        .lock()
                        .expect("no job panics while it holds the queue")
                        .recv();
                    match job {
                        Ok(job) => job(),
                        Err(mpsc::RecvError) => break,
                    }
                }
            };
            std::thread::Builder::new()
                .name(format!("compress-{number}"))
                .spawn(run)
                .expect("a thread can be started");
        }
        Self {
            jobs,
            buffers: Arc::default(),
            waiting: Arc::default(),
        }
    }

    /// An empty buffer with room for a frame. It comes back when what it holds has been compressed.
    #[must_use]
    pub fn buffer(&self) -> Vec<u8> {
        let used = self.buffers.lock().expect("no holder panics").pop();
        used.unwrap_or_else(|| Vec::with_capacity(FRAME_BYTES_MAX))
    }

    /// Compresses a frame by `make`, which is told whether others wait behind it. `memory` stands for its plaintext, in KiB; what compressing saved is given back at once, the rest comes with the result.
    #[must_use]
    pub(super) fn compress(
        &self,
        plaintext: Bytes,
        make: impl FnOnce(&[u8], bool) -> Frame + Send + 'static,
        mut memory: OwnedSemaphorePermit,
    ) -> PendingFrame {
        let (done, result) = oneshot::channel();
        let (buffers, waiting) = (Arc::clone(&self.buffers), Arc::clone(&self.waiting));
        let job = move || {
            let behind = waiting.fetch_sub(1, Ordering::Relaxed) > 1;
            let frame = make(&plaintext, behind);
            keep(&buffers, plaintext);
            let kept = frame.compressed_bytes().div_ceil(KIB);
            let kept = memory.split(kept.min(memory.num_permits()));
            drop(memory);
            // The receiver is gone when the writer was dropped: nobody waits for the frame.
            let _ = done.send((frame, kept.expect("not more than it holds")));
        };
        self.waiting.fetch_add(1, Ordering::Relaxed);
        self.jobs
            .send(Box::new(job))
            .expect("the threads live as long as a handle");
        result
    }
}

/// Keeps a buffer for further use, if it is one of ours and nobody else looks at it.
fn keep(buffers: &Mutex<Vec<Vec<u8>>>, used: Bytes) {
    let Ok(used) = used.try_into_mut() else {
        return;
    };
    // A part of a larger one would be moved to its front first.
    if used.capacity() != FRAME_BYTES_MAX {
        return;
    }
    let mut buffer = Vec::from(used);
    buffer.clear();
    let mut free = buffers.lock().expect("no holder panics");
    if free.len() < BUFFERS_KEPT && buffer.capacity() == FRAME_BYTES_MAX {
        free.push(buffer);
    }
}

impl Default for Compressor {
    fn default() -> Self {
        Self::new()
    }
}
