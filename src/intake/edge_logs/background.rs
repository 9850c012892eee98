//! The thread that reads the batches of all workers, so that pulls do not wait for a log. On Linux, the thread has the
//! lowest priority. When the processors are busy, the thread waits for the workers, and the senders of logs wait for
//! the thread.
//!
//! A worker passes a batch and one piece of its body to the thread, and gets the batch back when the piece was read. So
//! each batch has at most one piece in memory. The thread reads the batches in turn, one small step of each batch.

use std::collections::VecDeque;
use std::fmt;
use std::sync::mpsc::{self, Receiver, Sender};
use std::sync::{Arc, Mutex, PoisonError};
use std::task::{Context, Poll};
use std::thread;

use atomic_waker::AtomicWaker;
use bytes::Bytes;

use super::batch::{Batch, BatchError};

/// The value that is added to the nice value of the thread. 19 gives the lowest priority.
#[cfg(target_os = "linux")]
const NICE: i32 = 19;

/// The handle of the thread. The first batch starts the thread. When the handle is dropped, the thread ends.
#[derive(Default)]
pub(super) struct Background {
    jobs: Mutex<Option<Sender<Job>>>,
}

impl fmt::Debug for Background {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Background").finish_non_exhaustive()
    }
}

impl Background {
    /// Passes a job to the thread. If the thread cannot start or has ended, the job fails. The next job then starts
    /// another thread.
    pub(super) fn send(&self, job: Job) {
        let mut jobs = self.jobs.lock().unwrap_or_else(PoisonError::into_inner);
        if jobs.is_none() {
            *jobs = start();
        }
        if jobs.as_ref().is_some_and(|jobs| jobs.send(job).is_err()) {
            *jobs = None;
        }
    }
}

fn start() -> Option<Sender<Job>> {
    let (sender, jobs) = mpsc::channel();
    match thread::Builder::new().name("edge-logs".to_owned()).spawn(move || run(&jobs)) {
        Ok(_) => Some(sender),
        Err(error) => {
            tracing::error!(%error, "the thread that reads the logs of CDNs cannot start");
            None
        }
    }
}

fn run(jobs: &Receiver<Job>) {
    // On Linux, each thread has its own priority. Elsewhere, the call would change the priority of the process.
    #[cfg(target_os = "linux")]
    if let Err(error) = rustix::process::nice(NICE) {
        tracing::warn!(%error, "the thread that reads the logs of CDNs cannot lower its priority");
    }
    let mut queue = VecDeque::new();
    loop {
        if queue.is_empty() {
            let Ok(job) = jobs.recv() else { return };
            queue.push_back(job);
        }
        queue.extend(jobs.try_iter());
        if let Some(mut job) = queue.pop_front()
            && !job.step()
        {
            queue.push_back(job);
        }
    }
}

/// A batch with one piece of its body.
pub(super) struct Job {
    /// `None` after the job has ended.
    work: Option<(Box<Batch>, Bytes)>,
    reply: Arc<Reply>,
}

/// The place where the thread returns a batch, or the reason why the batch is refused.
#[derive(Default)]
pub(super) struct Reply {
    result: Mutex<Option<Result<Box<Batch>, BatchError>>>,
    waker: AtomicWaker,
}

impl Reply {
    /// Waits until the job has ended. Returns the batch, or the reason why the batch is refused.
    pub(super) fn poll(&self, cx: &Context<'_>) -> Poll<Result<Box<Batch>, BatchError>> {
        self.waker.register(cx.waker());
        match self.result.lock().unwrap_or_else(PoisonError::into_inner).take() {
            Some(result) => Poll::Ready(result),
            None => Poll::Pending,
        }
    }
}

impl Job {
    pub(super) fn new(batch: Box<Batch>, piece: Bytes, reply: &Arc<Reply>) -> Self {
        Self { work: Some((batch, piece)), reply: Arc::clone(reply) }
    }

    /// Reads a part of the piece. Returns true when the job has ended.
    fn step(&mut self) -> bool {
        let Some((batch, piece)) = &mut self.work else { return true };
        if Arc::strong_count(&self.reply) == 1 {
            // The request was cancelled, so nobody needs the batch.
            self.work = None;
            return true;
        }
        match batch.step(piece) {
            Ok(0) => {
                if let Some((batch, _)) = self.work.take() {
                    self.reply(Ok(batch));
                }
                true
            }
            Ok(_) => false,
            Err(error) => {
                self.work = None;
                self.reply(Err(error));
                true
            }
        }
    }

    fn reply(&self, result: Result<Box<Batch>, BatchError>) {
        *self.reply.result.lock().unwrap_or_else(PoisonError::into_inner) = Some(result);
        self.reply.waker.wake();
    }
}

impl Drop for Job {
    fn drop(&mut self) {
        if self.work.is_some() {
            self.reply(Err(BatchError::Aborted));
        }
    }
}
