//! A store that does what a script says: fails, loses the answer, delays, hangs, tears, lies, or is where the process dies.
//!
//! It stands where the real store stands, so every fault goes through the seam that production uses.

use std::fmt;
use std::ops::Range;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use pitr_archive::store::{Fetched, Listed, Piece, Store, StoreError};
use pitr_archive::writer::SpoolMedium;
use tokio::sync::watch;

use crate::memory_store::MemoryStore;

/// Which method was called.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Operation {
    /// `put_if_absent`
    PutIfAbsent,
    /// `put_replacing`
    PutReplacing,
    /// `get`
    Get,
    /// `list`
    List,
    /// `children`
    Children,
    /// `settle`
    Settle,
    /// `remove`, of a spool
    Remove,
}

/// One call of the store.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Call {
    /// Calls before it.
    pub number: u64,
    /// The method.
    pub operation: Operation,
    /// The key or prefix.
    pub key: String,
}

impl Call {
    /// True if the call changes the store.
    #[must_use]
    pub fn is_put(&self) -> bool {
        matches!(
            self.operation,
            Operation::PutIfAbsent | Operation::PutReplacing
        )
    }

    /// True if the call puts a segment.
    #[must_use]
    pub fn puts_segment(&self) -> bool {
        self.operation == Operation::PutIfAbsent && self.key.starts_with("log/")
    }
}

/// How a store says no.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum Failure {
    /// It does not answer.
    Unavailable,
    /// No room.
    Full,
    /// No permission.
    Denied,
    /// The medium is broken.
    Broken,
}

impl Failure {
    fn error(self, key: &str) -> StoreError {
        let (key, reason) = (key.to_owned(), "as the script says".to_owned());
        match self {
            Self::Unavailable => StoreError::Unavailable { key, reason },
            Self::Full => StoreError::Full { key, reason },
            Self::Denied => StoreError::Denied { key, reason },
            Self::Broken => StoreError::Broken { key, reason },
        }
    }
}

/// What happens to a call.
#[derive(Clone, PartialEq, Eq, Debug)]
pub enum Fault {
    /// An error, and nothing was done.
    FailBefore(Failure),
    /// It was done, and the answer is an error: a lost response.
    FailAfter(Failure),
    /// It is done after a while.
    Delay(Duration),
    /// It is never done and never answered.
    HangBefore,
    /// It is done and never answered.
    HangAfter,
    /// A put: success is answered and nothing was done.
    LieDone,
    /// A get: other bytes are answered.
    LieBytes(Bytes),
    /// The process dies before anything is done.
    CrashBefore,
    /// The process dies after it was done.
    CrashAfter,
    /// The process dies when the object is visible and not durable yet.
    CrashTorn,
}

type Matches = Box<dyn Fn(&Call) -> bool + Send>;

struct Rule {
    matches: Matches,
    times: u64,
    fault: Fault,
}

#[derive(Default)]
struct Script {
    rules: Vec<Rule>,
    calls: Vec<Call>,
}

/// A store with faults. Clones share script and calls.
#[derive(Clone)]
pub struct FaultStore {
    inner: MemoryStore,
    script: Arc<Mutex<Script>>,
    crashed: Arc<watch::Sender<bool>>,
}

impl fmt::Debug for FaultStore {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("FaultStore").finish_non_exhaustive()
    }
}

impl FaultStore {
    /// No faults yet, over `inner`.
    #[must_use]
    pub fn new(inner: MemoryStore) -> Self {
        Self {
            inner,
            script: Arc::default(),
            crashed: Arc::new(watch::Sender::new(false)),
        }
    }

    /// The next `times` calls for which `matches` holds suffer `fault`. Of several rules the first one made that matches acts.
    pub fn inject(
        &self,
        times: u64,
        fault: Fault,
        matches: impl Fn(&Call) -> bool + Send + 'static,
    ) {
        let matches = Box::new(matches);
        self.script().rules.push(Rule {
            matches,
            times,
            fault,
        });
    }

    /// Call number `number` suffers `fault`.
    pub fn at(&self, number: u64, fault: Fault) {
        self.inject(1, fault, move |call| call.number == number);
    }

    /// From now on all is well again.
    pub fn heal(&self) {
        self.script().rules.clear();
    }

    /// Calls so far, in the order in which they were made.
    #[must_use]
    pub fn calls(&self) -> Vec<Call> {
        self.script().calls.clone()
    }

    /// Returns when the script has killed the process: whoever uses the store must then be dropped.
    pub async fn crashed(&self) {
        let mut crashed = self.crashed.subscribe();
        crashed
            .wait_for(|crashed| *crashed)
            .await
            .expect("the sender lives in self");
    }

    /// True if the script has killed the process.
    #[must_use]
    pub fn has_crashed(&self) -> bool {
        *self.crashed.borrow()
    }

    fn script(&self) -> std::sync::MutexGuard<'_, Script> {
        self.script.lock().expect("no holder panics")
    }

    /// Counts the call and says what is to happen to it. A dead process makes no more calls: they never end.
    async fn enter(&self, operation: Operation, key: &str) -> Option<Fault> {
        if self.has_crashed() {
            std::future::pending::<()>().await;
        }
        let mut script = self.script();
        let number = script.calls.len() as u64;
        let call = Call {
            number,
            operation,
            key: key.into(),
        };
        let rule = script
            .rules
            .iter_mut()
            .find(|rule| rule.times > 0 && (rule.matches)(&call));
        let fault = rule.map(|rule| {
            rule.times -= 1;
            rule.fault.clone()
        });
        script.calls.push(call);
        fault
    }

    async fn die<T>(&self) -> T {
        self.crashed.send_replace(true);
        std::future::pending().await
    }

    /// Does `work` as the fault says. `torn` makes the effect visible only.
    async fn carry_out<T>(
        &self,
        key: &str,
        fault: Option<Fault>,
        work: impl Future<Output = Result<T, StoreError>> + Send,
        torn: impl FnOnce() + Send,
    ) -> Result<T, StoreError> {
        match fault {
            None | Some(Fault::LieDone | Fault::LieBytes(_)) => work.await,
            Some(Fault::FailBefore(failure)) => Err(failure.error(key)),
            Some(Fault::FailAfter(failure)) => {
                // What the work answered is lost with the response.
                let _ = work.await;
                Err(failure.error(key))
            }
            Some(Fault::Delay(time)) => {
                tokio::time::sleep(time).await;
                work.await
            }
            Some(Fault::HangBefore) => std::future::pending().await,
            Some(Fault::HangAfter) => {
                let _ = work.await;
                std::future::pending().await
            }
            Some(Fault::CrashBefore) => self.die().await,
            Some(Fault::CrashAfter) => {
                let _ = work.await;
                self.die().await
            }
            Some(Fault::CrashTorn) => {
                torn();
                self.die().await
            }
        }
    }
}

#[async_trait]
impl Store for FaultStore {
    async fn put_if_absent(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let fault = self.enter(Operation::PutIfAbsent, key).await;
        if fault == Some(Fault::LieDone) {
            return Ok(());
        }
        let visible = body.clone();
        let torn = || self.inner.put_visible_only(key, visible);
        self.carry_out(key, fault, self.inner.put_if_absent(key, body), torn)
            .await
    }

    async fn put_replacing(&self, key: &str, body: Bytes) -> Result<(), StoreError> {
        let fault = self.enter(Operation::PutReplacing, key).await;
        if fault == Some(Fault::LieDone) {
            return Ok(());
        }
        let work = self.inner.put_replacing(key, body);
        self.carry_out(key, fault, work, || ()).await
    }

    async fn get(&self, key: &str, piece: Piece) -> Result<Fetched, StoreError> {
        let fault = self.enter(Operation::Get, key).await;
        if let Some(Fault::LieBytes(bytes)) = fault {
            let object_bytes = bytes.len() as u64;
            return Ok(Fetched {
                bytes,
                object_bytes,
            });
        }
        self.carry_out(key, fault, self.inner.get(key, piece), || ())
            .await
    }

    async fn list(&self, prefix: &str, keys: Range<&str>) -> Result<Vec<Listed>, StoreError> {
        let fault = self.enter(Operation::List, prefix).await;
        self.carry_out(prefix, fault, self.inner.list(prefix, keys), || ())
            .await
    }

    async fn children(&self, prefix: &str) -> Result<Vec<String>, StoreError> {
        let fault = self.enter(Operation::Children, prefix).await;
        self.carry_out(prefix, fault, self.inner.children(prefix), || ())
            .await
    }

    async fn settle(&self, prefix: &str) -> Result<(), StoreError> {
        let fault = self.enter(Operation::Settle, prefix).await;
        self.carry_out(prefix, fault, self.inner.settle(prefix), || ())
            .await
    }
}

#[async_trait]
impl SpoolMedium for FaultStore {
    async fn remove(&self, key: &str) -> Result<(), StoreError> {
        let fault = self.enter(Operation::Remove, key).await;
        self.carry_out(key, fault, self.inner.remove(key), || ())
            .await
    }
}
