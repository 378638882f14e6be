//! The prefetcher: a process of its own that keeps the next WAL segments ready ahead of the server, since replay is one process and
//! waits for every file. It starts behind the segment that the server got last and ends by itself.

use std::fs::File;
use std::ops::Range;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::{Duration, Instant};

use futures_util::StreamExt;
use pitr_archive::Reading;
use tokio::task::JoinSet;

use super::decide::Decision;
use super::error::WalFetchError;
use super::log::{Log, create};
use super::ready::{PART, Ready, Running};
use crate::source::Source;
use crate::{Lsn, TimelineId, WalFileName};

/// WAL that is kept ready.
pub(super) const AHEAD_BYTES: u64 = 256 << 20;
/// Segments that are kept ready at least, where they are large.
const AHEAD_SEGMENTS_MIN: u64 = 2;
/// Not asked for so long, the prefetcher ends.
const IDLE: Duration = Duration::from_secs(60);
/// How much the replay goes before, as for nice(1).
const NICE: i32 = 10;
/// How often it looks whether the server has got on.
const LOOK_EVERY: Duration = Duration::from_millis(4);
/// How often it looks whether the server still lives.
const LOOK_FOR_SERVER_EVERY: Duration = Duration::from_secs(1);

/// Makes this process one that outlives the `restore_command` which started it, gets no signal meant for that, and leaves the
/// processor to the replay, which is the one process that everybody waits for.
pub fn detach() {
    // It fails only for a process that leads a group already.
    if rustix::process::setsid().is_ok() {
        // Every thread of the new group. Where the kernel weighs sessions against each other, that of the session counts.
        let _ = rustix::process::setpriority_pgrp(None, NICE);
        let _ = std::fs::write("/proc/self/autogroup", NICE.to_string());
    }
}

/// Keeps files ready in `ready` until the server stops asking, ends, or has taken all that is archived.
///
/// # Errors
/// Whatever keeps it from going on. The foreground then fetches for itself and finds out what it means.
pub async fn prefetch(
    reading: &Arc<Reading>,
    ready: &Ready,
    running: Running,
) -> Result<(), WalFetchError> {
    let segment_bytes = Source::of(reading.archive())?.wal_segment_bytes;
    let place = ready
        .place()
        .map_err(WalFetchError::file("read", ready.path()))?;
    let mut server = Server::beside(ready);
    let mut position = Position::read(ready, segment_bytes)?;
    loop {
        let log = Log::open(reading, position.timeline).await?;
        let ahead = Ahead {
            ready,
            place: &place,
            log: &log,
            segment_bytes,
            segments: (AHEAD_BYTES / segment_bytes).max(AHEAD_SEGMENTS_MIN),
        };
        match ahead.run(position, &mut server).await? {
            Some(next) => position = next,
            None => break,
        }
    }
    drop(running);
    Ok(())
}

/// The segment that the server got last.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Position {
    timeline: TimelineId,
    start: u64,
}

impl Position {
    fn read(ready: &Ready, segment_bytes: u64) -> Result<Self, WalFetchError> {
        let name = ready
            .asked()
            .map_err(WalFetchError::file("read", ready.path()))?;
        match WalFileName::parse(&name, segment_bytes)? {
            WalFileName::Segment(timeline, Lsn(start)) => Ok(Self { timeline, start }),
            WalFileName::History(timeline) => Ok(Self { timeline, start: 0 }),
        }
    }
}

/// One unbroken stretch of files, from the segment behind where the server is.
struct Ahead<'a> {
    ready: &'a Ready,
    place: &'a str,
    log: &'a Log,
    segment_bytes: u64,
    segments: u64,
}

/// Why the server's progress made us stop.
enum Turn {
    /// It went somewhere else.
    Elsewhere(Position),
    /// It does not ask any more.
    Over,
}

/// A file that is being written.
struct Open {
    wanted: Range<u64>,
    file: File,
    path: PathBuf,
}

impl Ahead<'_> {
    /// `None` when there is nothing more to do; otherwise where to begin anew.
    async fn run(
        &self,
        position: Position,
        server: &mut Server,
    ) -> Result<Option<Position>, WalFetchError> {
        let first = position.start + self.segment_bytes;
        let last = |start: u64| start + self.segments * self.segment_bytes;
        self.keep(first..last(position.start) + self.segment_bytes)?;
        let wanted = first..first + self.segment_bytes;
        let Decision::Bytes { run, upto } = self.log.decide(&wanted, None).await? else {
            return Ok(None);
        };
        let end = self.log.runs[run].positions.end;
        // A file that the archive's end cuts off may have more by the time it is asked for.
        let whole_end = end - end % self.segment_bytes;
        if upto < wanted.end || whole_end <= first {
            return Ok(None);
        }
        let mut pieces = std::pin::pin!(self.log.pieces(run, first, whole_end).await?);
        let mut at = position;
        let (mut open, mut room): (Option<Open>, Vec<u8>) = (None, Vec::new());
        let mut syncing: JoinSet<Result<(), WalFetchError>> = JoinSet::new();
        while let Some(piece) = pieces.next().await {
            let piece = piece?;
            let mut from = piece.start().max(first);
            while from < piece.end().min(whole_end) {
                let start = from - from % self.segment_bytes;
                if open.as_ref().is_none_or(|open| open.wanted.start != start) {
                    match self.wait(&mut at, start, last, server).await? {
                        Some(Turn::Elsewhere(position)) => return Ok(Some(position)),
                        Some(Turn::Over) => return Ok(None),
                        None => open = Some(self.create(start, last(at.start), whole_end)?),
                    }
                }
                let current = open.as_ref().expect("it was opened above");
                let end = piece.unpack(&current.wanted, &current.file, &current.path, &mut room)?;
                from = end.min(current.wanted.end);
                if from == current.wanted.end {
                    let done = open.take().expect("it was opened above");
                    self.hand_over(done, &mut syncing);
                    while let Some(done) = syncing.try_join_next() {
                        done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
                    }
                }
            }
        }
        while let Some(done) = syncing.join_next().await {
            done.unwrap_or_else(|e| std::panic::resume_unwind(e.into_panic()))?;
        }
        // While files lie ready nobody else needs to start looking for more.
        let taken = |start: u64| start + self.segment_bytes;
        match self.wait(&mut at, whole_end, taken, server).await? {
            Some(Turn::Elsewhere(position)) => Ok(Some(position)),
            Some(Turn::Over) | None => Ok(None),
        }
    }

    /// Waits until the segment at `start` lies in the window. What the server did instead, if it did not come nearer.
    async fn wait(
        &self,
        at: &mut Position,
        start: u64,
        last: impl Fn(u64) -> u64,
        server: &mut Server,
    ) -> Result<Option<Turn>, WalFetchError> {
        let mut since = Instant::now();
        loop {
            let now = Position::read(self.ready, self.segment_bytes)?;
            let onward = now.timeline == at.timeline && now.start >= at.start;
            if !onward || now.start >= start {
                return Ok(Some(Turn::Elsewhere(now)));
            }
            if now != *at {
                (*at, since) = (now, Instant::now());
            }
            if start <= last(at.start) {
                return Ok(None);
            }
            if since.elapsed() > IDLE || !server.lives() || !self.ready.is_from(self.place) {
                return Ok(Some(Turn::Over));
            }
            tokio::time::sleep(LOOK_EVERY).await;
        }
    }

    fn keep(&self, window: Range<u64>) -> Result<(), WalFetchError> {
        let keep = |name: &str| match WalFileName::parse(name, self.segment_bytes) {
            Ok(WalFileName::Segment(timeline, at)) => {
                timeline == self.log.timeline && window.contains(&at.0)
            }
            _ => false,
        };
        let kept = self.ready.keep_only(keep);
        kept.map_err(WalFetchError::file("clear", self.ready.path()))
    }

    fn create(&self, start: u64, last: u64, whole_end: u64) -> Result<Open, WalFetchError> {
        let name = |start| self.log.name(start, self.segment_bytes);
        let last = last.min(whole_end - self.segment_bytes);
        self.ready
            .announce(&name(start), &name(last.max(start)))
            .map_err(WalFetchError::file("write", self.ready.path()))?;
        let path = self.ready.path().join(name(start) + PART);
        Ok(Open {
            wanted: start..start + self.segment_bytes,
            file: create(&path)?,
            path,
        })
    }

    /// Makes a file durable and gives it its name, beside the work on the next one. PostgreSQL syncs every file that it gets; what is
    /// synced already costs it nothing. Where another archive's files are wanted by now, it gets none.
    fn hand_over(&self, open: Open, syncing: &mut JoinSet<Result<(), WalFetchError>>) {
        let name = self.log.name(open.wanted.start, self.segment_bytes);
        let (ready, place) = (self.ready.clone(), self.place.to_owned());
        syncing.spawn_blocking(move || {
            open.file
                .sync_data()
                .map_err(WalFetchError::file("sync", &open.path))?;
            if !ready.is_from(&place) {
                return Ok(());
            }
            std::fs::rename(&open.path, ready.path().join(name))
                .map_err(WalFetchError::file("rename", &open.path))
        });
    }
}

/// The server that the files are for, by its `postmaster.pid`.
struct Server {
    pid_file: PathBuf,
    seen: bool,
    looked: Instant,
}

impl Server {
    fn beside(ready: &Ready) -> Self {
        let data = ready.path().parent().and_then(Path::parent);
        let pid_file = data.unwrap_or(Path::new("")).join("postmaster.pid");
        Self {
            seen: process(&pid_file).is_some(),
            pid_file,
            looked: Instant::now(),
        }
    }

    /// False once a server that was there is not any more.
    fn lives(&mut self) -> bool {
        if !self.seen || self.looked.elapsed() < LOOK_FOR_SERVER_EVERY {
            return true;
        }
        self.looked = Instant::now();
        let process = process(&self.pid_file);
        process.is_some_and(
            |process| match rustix::process::test_kill_process(process) {
                Err(error) => error == rustix::io::Errno::PERM,
                Ok(()) => true,
            },
        )
    }
}

fn process(pid_file: &Path) -> Option<rustix::process::Pid> {
    let text = std::fs::read_to_string(pid_file).ok()?;
    let pid = text.lines().next()?.trim().parse().ok()?;
    rustix::process::Pid::from_raw(pid)
}
