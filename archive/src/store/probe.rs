//! Whether a store does what the contract says, tried out before anything is entrusted to it. Tries leave a few small objects
//! under `probe/`, always the same ones, which no reader looks at.

use bytes::Bytes;
use futures_util::future::{join_all, try_join4};

use super::{Piece, Store, StoreError};

/// Put by the first probe of an archive and never replaced.
const CONDITION: &str = "probe/condition";
/// Replaced by every probe.
const HINT: &str = "probe/hint";
/// Never put.
pub(super) const ABSENT: &str = "probe/absent";
/// Puts of the same key at once.
const RACERS: u8 = 4;

/// How what was tried came out.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Verdict {
    /// As the contract says.
    Sound,
    /// Objects are safe; somebody should look.
    Doubtful,
    /// A permission is missing: nothing can be archived until it is given.
    Denied,
    /// The store cannot keep an archive.
    Unfit,
}

/// One thing that was tried.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Probed {
    /// How it came out.
    pub verdict: Verdict,
    /// What was found, in one sentence without its full stop.
    pub detail: String,
}

impl Probed {
    pub(super) fn new(verdict: Verdict, detail: impl Into<String>) -> Self {
        Self {
            verdict,
            detail: detail.into(),
        }
    }
}

/// Tries the store out.
///
/// # Errors
/// If the store does not answer: then nothing is known of it.
pub async fn probe(store: &dyn Store) -> Result<Vec<Probed>, StoreError> {
    let tries = try_join4(
        condition(store),
        read_after_write(store),
        absent(store),
        store.probe_medium(),
    );
    let (condition, read, absent, medium) = tries.await?;
    let mut found = vec![condition, read, absent];
    found.extend(medium);
    Ok(found)
}

/// Of puts at the same time one succeeds at most, and what is there stays.
async fn condition(store: &dyn Store) -> Result<Probed, StoreError> {
    let unfit = |why: &str| {
        let detail = format!("put-if-absent is not honoured: {why}");
        Ok(Probed::new(Verdict::Unfit, detail))
    };
    let mut nonce = [0; 8];
    // Without randomness the puts of two daemons may be alike; the count of those that succeeded still tells.
    let _ = getrandom::fill(&mut nonce);
    let body = |racer: u8| Bytes::from(format!("{:016x} {racer}", u64::from_be_bytes(nonce)));
    let puts = join_all((0..RACERS).map(|racer| store.put_if_absent(CONDITION, body(racer)))).await;
    let (mut won, mut answered, mut failed) = (0, 0, None);
    for put in puts {
        match put {
            Ok(()) => (won, answered) = (won + 1, answered + 1),
            Err(StoreError::AlreadyExists { .. }) => answered += 1,
            Err(error @ StoreError::Unavailable { .. }) => failed = Some(error),
            Err(error) => return refused(error, "s3:PutObject"),
        }
    }
    if won > 1 {
        return unfit("of puts at the same time several succeeded");
    }
    // A store may stumble over puts of one key at the same time; one after the other they tell enough.
    if let (0, Some(error)) = (answered, failed) {
        return Err(error);
    }
    let before = match store.get(CONDITION, Piece::Whole).await {
        Ok(fetched) => fetched.bytes,
        Err(StoreError::NotFound { .. }) => {
            return unfit("it says that an object exists and that it does not");
        }
        Err(error) => return refused(error, "s3:GetObject"),
    };
    match store.put_if_absent(CONDITION, body(RACERS)).await {
        Err(StoreError::AlreadyExists { .. }) => {}
        Ok(()) => return unfit("a second put of the same key succeeded"),
        Err(error) => return refused(error, "s3:PutObject"),
    }
    if store.get(CONDITION, Piece::Whole).await?.bytes != before {
        return unfit("a refused put replaced the object");
    }
    Ok(Probed::new(Verdict::Sound, "put-if-absent is honoured"))
}

async fn read_after_write(store: &dyn Store) -> Result<Probed, StoreError> {
    for round in 0..2 {
        let mut body = [round; 16];
        let _ = getrandom::fill(&mut body[1..]);
        let body = Bytes::copy_from_slice(&body);
        if let Err(error) = store.put_replacing(HINT, body.clone()).await {
            return refused(error, "s3:PutObject");
        }
        let read = match store.get(HINT, Piece::Whole).await {
            Ok(fetched) => Some(fetched.bytes),
            Err(StoreError::NotFound { .. }) => None,
            Err(error) => return refused(error, "s3:GetObject"),
        };
        if read.as_ref() != Some(&body) {
            let detail = "what was just put is not what is read";
            return Ok(Probed::new(Verdict::Unfit, detail));
        }
    }
    Ok(Probed::new(
        Verdict::Sound,
        "what was just put is what is read",
    ))
}

/// The end of a stream is found by asking for what is not there.
async fn absent(store: &dyn Store) -> Result<Probed, StoreError> {
    match store.get(ABSENT, Piece::Whole).await {
        Err(StoreError::NotFound { .. }) => Ok(Probed::new(
            Verdict::Sound,
            "what is missing is said to be missing",
        )),
        Ok(_) => Ok(Probed::new(
            Verdict::Unfit,
            format!("{ABSENT} exists, which nobody puts"),
        )),
        Err(error) => refused(error, "s3:ListBucket"),
    }
}

/// A refusal is a finding; anything else says nothing about the store.
pub(super) fn refused(error: StoreError, permission: &str) -> Result<Probed, StoreError> {
    match error {
        StoreError::Denied { reason, .. } => Ok(Probed::new(
            Verdict::Denied,
            format!("the permission {permission} is missing, or a setting is refused: {reason}"),
        )),
        StoreError::Broken { reason, .. } => Ok(Probed::new(Verdict::Unfit, reason)),
        error => Err(error),
    }
}
