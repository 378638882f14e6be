//! Writes to a replica set from several threads until told to stop, through elections and crashes.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicI64, Ordering};
use std::thread::JoinHandle;
use std::time::Duration;

use bson::doc;
use mongodb::Client;
use mongodb::options::{ClientOptions, WriteConcern};

/// Writers that run. Dropping it stops them.
#[derive(Debug)]
pub struct MongoLoad {
    stop: Arc<AtomicBool>,
    acknowledged: Arc<AtomicI64>,
    threads: Vec<JoinHandle<()>>,
}

impl MongoLoad {
    /// Starts `writers` threads that insert, update and delete in `load.w<number>`.
    pub fn start(uri: &str, writers: usize) -> MongoLoad {
        let (stop, acknowledged) = (Arc::<AtomicBool>::default(), Arc::<AtomicI64>::default());
        let threads = (0..writers).map(|number| {
            let (uri, stop, acknowledged) = (uri.to_owned(), stop.clone(), acknowledged.clone());
            std::thread::spawn(move || write(&uri, number, &stop, &acknowledged))
        });
        MongoLoad {
            threads: threads.collect(),
            stop,
            acknowledged,
        }
    }

    /// Writes that a majority has acknowledged so far.
    pub fn count(&self) -> i64 {
        self.acknowledged.load(Ordering::Relaxed)
    }

    /// Stops all writers; how much they wrote.
    pub fn finish(mut self) -> i64 {
        self.end();
        self.count()
    }

    fn end(&mut self) {
        self.stop.store(true, Ordering::Relaxed);
        for thread in self.threads.drain(..) {
            thread.join().expect("a writer does not panic");
        }
    }
}

impl Drop for MongoLoad {
    fn drop(&mut self) {
        self.end();
    }
}

fn write(uri: &str, number: usize, stop: &AtomicBool, acknowledged: &AtomicI64) {
    let runtime = tokio::runtime::Builder::new_current_thread()
        .enable_all()
        .build()
        .expect("build a runtime");
    runtime.block_on(async {
        let mut options = ClientOptions::parse(uri).await.expect("a valid URI");
        options.server_selection_timeout = Some(Duration::from_secs(30));
        options.write_concern = Some(WriteConcern::majority());
        let client = Client::with_options(options).expect("make a client");
        let collection = client
            .database("load")
            .collection::<bson::Document>(&format!("w{number}"));
        for turn in 0_i64.. {
            if stop.load(Ordering::Relaxed) {
                return;
            }
            let id = turn / 4;
            let done = match turn % 4 {
                0 => collection
                    .insert_one(doc! { "_id": id, "text": "x".repeat(100 + (turn % 400) as usize) })
                    .await
                    .map(drop),
                1 => collection
                    .update_one(doc! { "_id": id }, doc! { "$set": { "turn": turn } })
                    .await
                    .map(drop),
                2 => collection
                    .update_one(doc! { "_id": id / 2 }, doc! { "$inc": { "seen": 1 } })
                    .await
                    .map(drop),
                _ => collection
                    .delete_one(doc! { "_id": id / 3 })
                    .await
                    .map(drop),
            };
            match done {
                Ok(()) => {
                    acknowledged.fetch_add(1, Ordering::Relaxed);
                }
                // An election, or a server that is away.
                Err(_) => tokio::time::sleep(Duration::from_millis(50)).await,
            }
        }
    });
}
