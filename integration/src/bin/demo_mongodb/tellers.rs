//! The application: tellers who book transfers, each a transaction over three documents, until they are stopped.

use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, RwLock};
use std::thread::JoinHandle;
use std::time::Duration;

use bson::{Document, doc};
use mongodb::Client;
use pitr_integration::wait_until;

use crate::{ACCOUNTS, PATIENCE};

const TELLERS: u64 = 4;

/// The application.
pub(crate) struct Tellers {
    stop: Arc<AtomicBool>,
    /// Whoever holds it alone holds all tellers between two transfers.
    pub(crate) gate: Arc<RwLock<()>>,
    booked: Arc<AtomicU64>,
    refused: Arc<AtomicU64>,
    threads: Mutex<Vec<JoinHandle<()>>>,
}

impl Tellers {
    pub(crate) fn start(uri: &str) -> Tellers {
        let tellers = Tellers {
            stop: Arc::default(),
            gate: Arc::default(),
            booked: Arc::default(),
            refused: Arc::default(),
            threads: Mutex::default(),
        };
        let threads = (0..TELLERS).map(|teller| {
            let (uri, stop, gate) = (uri.to_owned(), tellers.stop.clone(), tellers.gate.clone());
            let (booked, refused) = (tellers.booked.clone(), tellers.refused.clone());
            std::thread::spawn(move || work(&uri, teller, &stop, &gate, &booked, &refused))
        });
        tellers
            .threads
            .lock()
            .expect("nobody else has it")
            .extend(threads);
        tellers
    }

    pub(crate) fn booked(&self) -> u64 {
        self.booked.load(Ordering::Relaxed)
    }

    /// Until the application notices.
    pub(crate) fn wait_refused(&self) {
        let before = self.refused.load(Ordering::Relaxed);
        wait_until("the application to fail", PATIENCE, || {
            self.refused.load(Ordering::Relaxed) > before + 20
        });
    }

    /// Ends all; how many transfers they booked.
    pub(crate) fn finish(self) -> u64 {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.into_inner().expect("nobody else has it") {
            thread.join().expect("a teller does not panic");
        }
        self.booked.load(Ordering::Relaxed)
    }
}

fn work(
    uri: &str,
    teller: u64,
    stop: &AtomicBool,
    gate: &RwLock<()>,
    booked: &AtomicU64,
    refused: &AtomicU64,
) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("build a runtime");
    let client = runtime
        .block_on(Client::with_uri_str(uri))
        .expect("make a client");
    let mut state = teller;
    for number in 0_i64.. {
        if stop.load(Ordering::Relaxed) {
            return;
        }
        std::thread::sleep(Duration::from_millis(8));
        let turn = gate.read().expect("nobody panics");
        let number = number * TELLERS as i64 + teller as i64;
        let from = next(&mut state);
        // Account 0 is everybody's first customer.
        let to = if number % 500 < 4 {
            0
        } else {
            next(&mut state)
        };
        match runtime.block_on(transfer(&client, number, from, to)) {
            Ok(true) => booked.fetch_add(1, Ordering::Relaxed),
            // Two tellers met at one account, or there is no money.
            Ok(false) | Err(_) => refused.fetch_add(1, Ordering::Relaxed),
        };
        drop(turn);
    }
}

/// An account; the sequence is the same in every run.
fn next(state: &mut u64) -> i32 {
    *state = state
        .wrapping_mul(6_364_136_223_846_793_005)
        .wrapping_add(1_442_695_040_888_963_407);
    ((*state >> 33) % ACCOUNTS as u64) as i32
}

/// True: booked. False: the account has not enough.
async fn transfer(
    client: &Client,
    number: i64,
    from: i32,
    to: i32,
) -> mongodb::error::Result<bool> {
    let bank = client.database("bank");
    let accounts = bank.collection::<Document>("accounts");
    let mut session = client.start_session().await?;
    session.start_transaction().await?;
    let give = accounts
        .update_one(
            doc! { "_id": from, "balance": { "$gte": 10_i64 } },
            doc! { "$inc": { "balance": -10_i64 } },
        )
        .session(&mut session)
        .await?;
    if give.matched_count == 0 {
        session.abort_transaction().await?;
        return Ok(false);
    }
    accounts
        .update_one(
            doc! { "_id": to },
            doc! { "$inc": { "balance": 10_i64 }, "$push": { "seen": { "$each": [number], "$slice": -5 } } },
        )
        .session(&mut session)
        .await?;
    bank.collection::<Document>("transfers")
        .insert_one(doc! { "number": number, "from": from, "to": to, "amount": 10_i64 })
        .session(&mut session)
        .await?;
    session.commit_transaction().await?;
    Ok(true)
}
