//! Sealing in order, putting in parallel, counting in order: from a cut segment to the durable end.

use std::collections::VecDeque;
use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{OwnedSemaphorePermit, mpsc, watch};
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::Instant;

use super::put::{Outgoing, with_deadline};
use super::queue::Queue;
use super::resume::{Present, Resume};
use super::segmenter::{Cut, collect};
use super::spool::Spooling;
use super::{IN_FLIGHT_MAX, Progress, Writer};
use crate::error::ArchiveError;
use crate::layout;
use crate::object::{Header, Id, Kind, Sealed, StreamName};
use crate::reader::Head;

/// The head is renewed so often while there is something to tell.
const HEAD_EVERY: Duration = Duration::from_secs(60);
/// How long the last head may take when the writer finishes.
const LAST_HEAD_DEADLINE: Duration = Duration::from_secs(10);

/// What the next header takes over from the last one.
#[derive(Clone, Debug, Default)]
struct Chain {
    previous: [u8; 32],
    time_high: Option<i64>,
    run_seq: u64,
    run_start: u64,
    unsure_seq: Option<u64>,
    damage: Option<u64>,
}

impl Chain {
    fn new_run(run_seq: u64, run_start: u64, previous: [u8; 32]) -> Self {
        Self {
            previous,
            run_seq,
            run_start,
            ..Self::default()
        }
    }

    fn after(present: &Present) -> Self {
        let Header {
            time_high,
            run_seq,
            run_start,
            unsure_seq,
            damage,
            ..
        } = present.header;
        Self {
            previous: present.hash,
            time_high,
            run_seq,
            run_start,
            unsure_seq,
            damage,
        }
    }
}

pub(super) type Sealing = JoinHandle<Result<(Sealed, Vec<OwnedSemaphorePermit>), ArchiveError>>;

pub(super) struct Pump {
    writer: Arc<Writer>,
    stream: StreamName,
    puts_in_flight: u64,
    publish: watch::Sender<Progress>,
    chain: Chain,
    queue: Queue,
    puts: JoinSet<(u64, Result<(), ArchiveError>)>,
    sealing: Option<Sealing>,
    spooling: Spooling,
    /// Clock readings whose end is not durable yet, oldest first.
    clocks: VecDeque<(i64, u64)>,
    durable_seq: Option<u64>,
    head_written: Option<(Instant, Head)>,
    head_task: Option<JoinHandle<()>>,
}

impl Pump {
    pub(super) fn new(
        writer: Arc<Writer>,
        stream: StreamName,
        resume: &Resume,
        from: u64,
        puts_in_flight: u64,
        publish: watch::Sender<Progress>,
    ) -> Self {
        let begin = resume.durable().map_or(from, |durable| durable.max(from));
        let breaks = resume.strays || resume.durable().is_some_and(|durable| from > durable);
        let chain = match (&resume.run, &resume.last_contiguous) {
            _ if breaks => Chain::new_run(resume.next_seq, begin, resume.tail),
            (None, _) => Chain::new_run(0, from, [0; 32]),
            (Some(_), Some(present)) => Chain::after(present),
            (Some(run), None) => Chain::new_run(run.seq, run.position, run.previous),
        };
        let durable = resume.last_contiguous.as_ref().filter(|_| !breaks);
        let spooling = Spooling::new(writer.spool().cloned());
        Self {
            writer,
            stream,
            puts_in_flight,
            publish,
            chain,
            queue: Queue::default(),
            puts: JoinSet::new(),
            sealing: None,
            spooling,
            clocks: VecDeque::new(),
            durable_seq: durable.map(|present| present.header.seq),
            head_written: None,
            head_task: None,
        }
    }

    /// Runs until the segmenter ends and everything it cut is durable.
    pub(super) async fn run(mut self, mut cuts: mpsc::Receiver<Cut>) -> Result<(), ArchiveError> {
        let mut ended = false;
        let mut head_timer = tokio::time::interval(HEAD_EVERY / 4);
        loop {
            self.start_puts();
            self.spooling.turn(&mut self.queue);
            if ended && self.sealing.is_none() && self.queue.is_empty() {
                break;
            }
            tokio::select! {
                cut = cuts.recv(), if !ended && self.may_seal() => match cut {
                    Some(cut) => self.accept(cut),
                    None => ended = true,
                },
                sealed = join(&mut self.sealing), if self.sealing.is_some() => {
                    self.sealing = None;
                    let (sealed, memory) = sealed?;
                    self.sealed(sealed, memory);
                }
                Some(put) = self.puts.join_next() => {
                    let (seq, result) = put.unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic()));
                    result?;
                    self.queue.durable(seq);
                    self.advance();
                }
                () = self.spooling.changed(&mut self.queue) => {}
                _ = head_timer.tick() => self.renew_head(),
            }
        }
        self.spooling.finish().await;
        self.last_head().await;
        Ok(())
    }

    /// What is sealed is put at once, or goes to the spool.
    fn may_seal(&self) -> bool {
        let puts_at_once =
            (self.puts.len() as u64) < self.puts_in_flight && self.queue.span() < IN_FLIGHT_MAX;
        self.sealing.is_none() && (puts_at_once || self.spooling.takes_more(&self.queue))
    }

    fn start_puts(&mut self) {
        while (self.puts.len() as u64) < self.puts_in_flight
            && let Some((seq, outgoing)) = self.queue.next_to_put(&self.stream)
        {
            let writer = Arc::clone(&self.writer);
            self.puts
                .spawn(async move { (seq, writer.put_outgoing(&outgoing).await) });
        }
    }

    fn accept(&mut self, cut: Cut) {
        match cut {
            Cut::Clock { clock, end } => {
                self.clocks.push_back((clock, end));
                self.advance();
            }
            Cut::Present(present) => {
                self.chain = Chain::after(&present);
                let Header { seq, end, .. } = present.header;
                self.queue.push(seq, end, true);
                self.publish.send_modify(|progress| progress.sealed = end);
                self.advance();
            }
            Cut::Segment {
                seq,
                start,
                end,
                refill,
                frames,
                annotation,
            } => {
                let chain = &mut self.chain;
                chain.time_high = chain.time_high.max(annotation.time_max);
                if annotation.unsure {
                    chain.unsure_seq = Some(seq);
                }
                if let Some(at) = annotation.damage {
                    chain.damage = Some(at.clamp(chain.run_start, end - 1));
                }
                let mut header =
                    self.writer
                        .header(Kind::Segment, &self.stream, Id::default(), seq);
                (header.start, header.end, header.refill) = (start, end, refill);
                (header.time_min, header.time_max) = (annotation.time_min, annotation.time_max);
                (header.time_high, header.unsure_seq) = (chain.time_high, chain.unsure_seq);
                (header.run_seq, header.run_start) = (chain.run_seq, chain.run_start);
                (header.damage, header.proofs) = (chain.damage, annotation.proofs);
                header.previous = chain.previous;
                self.queue.push(seq, end, false);
                let writer = Arc::clone(&self.writer);
                self.sealing = Some(tokio::spawn(async move {
                    let (frames, memory) = collect(frames).await;
                    let sealed = writer.seal(header, frames, annotation.summary).await?;
                    Ok((sealed, memory))
                }));
            }
        }
    }

    fn sealed(&mut self, sealed: Sealed, memory: Vec<OwnedSemaphorePermit>) {
        self.chain.previous = sealed.hash;
        self.publish
            .send_modify(|progress| progress.sealed = sealed.header.end);
        let seq = sealed.header.seq;
        let key = layout::segment(&self.stream, seq);
        self.queue.sealed(seq, Outgoing::new(key, sealed, memory));
    }

    /// Moves the durable end over everything at the front that is durable, and publishes it.
    fn advance(&mut self) {
        let mut now = *self.publish.borrow();
        while let Some(passed) = self.queue.pass() {
            assert!(passed.end > now.durable, "the durable end never goes back");
            now.durable = passed.end;
            self.durable_seq = Some(passed.seq);
            if passed.kept {
                self.spooling
                    .remove(layout::segment(&self.stream, passed.seq));
            }
        }
        while let Some((clock, _)) = self.clocks.pop_front_if(|(_, end)| *end <= now.durable) {
            now.covered = now.covered.max(Some(clock));
        }
        assert!(
            now.durable <= now.sealed,
            "only what was sealed can be durable"
        );
        let first_head =
            self.head_written.is_none() && now.durable != self.publish.borrow().durable;
        self.publish
            .send_if_modified(|progress| std::mem::replace(progress, now) != now);
        if first_head {
            self.renew_head();
        }
    }

    /// What the head should say, if that is news.
    fn news(&self) -> Option<Head> {
        let Progress {
            durable, covered, ..
        } = *self.publish.borrow();
        let head = Head {
            seq: self.durable_seq?,
            end: durable,
            covered,
            written: jiff::Timestamp::now(),
        };
        let known = self
            .head_written
            .as_ref()
            .map(|(_, known)| (known.seq, known.covered));
        (known != Some((head.seq, head.covered))).then_some(head)
    }

    /// Renews the head in the background, at most once a minute.
    fn renew_head(&mut self) {
        let recent = self
            .head_written
            .as_ref()
            .is_some_and(|(at, _)| at.elapsed() < HEAD_EVERY);
        let busy = self
            .head_task
            .as_ref()
            .is_some_and(|task| !task.is_finished());
        if recent || busy {
            return;
        }
        if let Some(head) = self.news() {
            self.head_written = Some((Instant::now(), head.clone()));
            self.head_task = Some(tokio::spawn(put_head(
                Arc::clone(&self.writer),
                self.stream.clone(),
                head,
            )));
        }
    }

    async fn last_head(&mut self) {
        if let Some(task) = self.head_task.take() {
            // Two heads must not overtake each other; a store that hangs must not hold up the end.
            if tokio::time::timeout(LAST_HEAD_DEADLINE, task)
                .await
                .is_err()
            {
                return;
            }
        }
        if let Some(head) = self.news() {
            let put = put_head(Arc::clone(&self.writer), self.stream.clone(), head);
            if tokio::time::timeout(LAST_HEAD_DEADLINE, put).await.is_err() {
                tracing::warn!(stream = %self.stream, "the head was not renewed: the store does not answer");
            }
        }
    }
}

/// The head is a hint: what fails here costs a few requests at the next start.
async fn put_head(writer: Arc<Writer>, stream: StreamName, head: Head) {
    let key = layout::head(&stream);
    let body = writer.sign(&key, &head);
    if let Err(error) = with_deadline(
        &key,
        writer.archive().store().put_replacing(&key, body.into()),
    )
    .await
    {
        tracing::warn!(%stream, %error, "the head was not renewed");
    }
}

/// Waits for the sealing that is under way; `None` never ends.
async fn join(
    sealing: &mut Option<Sealing>,
) -> Result<(Sealed, Vec<OwnedSemaphorePermit>), ArchiveError> {
    match sealing {
        Some(task) => task
            .await
            .unwrap_or_else(|error| std::panic::resume_unwind(error.into_panic())),
        None => std::future::pending().await,
    }
}
