//! SQLite's writer: all waiting orders go into one transaction and share its fsync.
//!
//! SQLite has one writer at a time; with a transaction per order, each order would wait for the fsyncs of all
//! before it.

use std::sync::{Arc, OnceLock};

use anyhow::{Context, anyhow};
use tokio::sync::{mpsc, oneshot};

use super::database::Database;
use super::entry::{Outcome, keep};
use super::retry;
use crate::store::Entry;

/// Orders per transaction: limits how long a caller waits.
const BATCH: usize = 256;
/// Orders that wait in the queue; further callers wait to enter it.
const QUEUE: usize = 1024;

/// An entry, and the caller that waits for its result.
struct Job {
    entry: Entry,
    done: oneshot::Sender<Result<Outcome, Arc<anyhow::Error>>>,
}

/// Sends entries to the writer task, which starts with the first one.
pub(super) struct Writer {
    database: Arc<Database>,
    queue: OnceLock<mpsc::Sender<Job>>,
}

impl Writer {
    /// A writer into `database`, not running yet.
    pub(super) fn new(database: Arc<Database>) -> Self {
        Self {
            database,
            queue: OnceLock::new(),
        }
    }

    /// Stores the entry, together with others.
    pub(super) async fn keep(&self, entry: &Entry) -> anyhow::Result<Outcome> {
        let queue = self.queue.get_or_init(|| {
            let (queue, jobs) = mpsc::channel(QUEUE);
            tokio::spawn(work(Arc::clone(&self.database), jobs));
            queue
        });
        let (done, outcome) = oneshot::channel();
        let job = Job {
            entry: entry.clone(),
            done,
        };
        let ended = "the writer has ended";
        queue.send(job).await.map_err(|_| anyhow!(ended))?;
        let outcome = outcome.await.context(ended)?;
        outcome.map_err(|error| anyhow!("create order {}: {error:#}", entry.order.id))
    }
}

async fn work(database: Arc<Database>, mut queue: mpsc::Receiver<Job>) {
    let mut jobs = Vec::with_capacity(BATCH);
    while queue.recv_many(&mut jobs, BATCH).await > 0 {
        // A caller that gave up has reported an unknown outcome.
        jobs.retain(|job| !job.done.is_closed());
        match commit(&database, &jobs).await {
            Ok(outcomes) => {
                for (job, outcome) in jobs.drain(..).zip(outcomes) {
                    // The caller may have given up.
                    let _ = job.done.send(Ok(outcome));
                }
            }
            Err(error) => {
                let error = Arc::new(error);
                for job in jobs.drain(..) {
                    let _ = job.done.send(Err(Arc::clone(&error)));
                }
            }
        }
    }
}

/// Stores all of them, or none.
async fn commit(database: &Database, jobs: &[Job]) -> anyhow::Result<Vec<Outcome>> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let pools = database.pools().await?;
    // Checked before, because SQLite's errors for a replaced file are misleading; and after, because that
    // check decides.
    database.still_there()?;
    let outcomes = retry::with_retries(database, || async move {
        let mut session = database.write(pools).await?;
        session.run(database.begin()).await?;
        let mut outcomes = Vec::with_capacity(jobs.len());
        for job in jobs {
            // A refused entry has written at most a claim, which must be rolled back without the other
            // entries.
            session.run("SAVEPOINT entry").await?;
            let outcome = keep(database, &mut *session, &job.entry).await?;
            if !matches!(outcome, Outcome::Kept(_)) {
                session.run("ROLLBACK TO entry").await?;
            }
            session.run("RELEASE entry").await?;
            outcomes.push(outcome);
        }
        session.run("COMMIT").await?;
        session.done();
        Ok(outcomes)
    });
    let outcomes = outcomes.await.map_err(retry::explain)?;
    database.still_there()?;
    Ok(outcomes)
}
