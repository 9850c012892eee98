//! Passes the body of a batch, piece by piece, to the thread that reads batches.

use std::fmt;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use bytes::Bytes;

use super::background::{Job, Reply};
use super::batch::{Batch, BatchError, Sums};
use super::permits::{Intake, Permit};

/// A batch that is being read, for the worker that receives its body.
pub(crate) struct Reader {
    /// `None` while the thread has the batch.
    batch: Option<Box<Batch>>,
    reply: Arc<Reply>,
    intake: Arc<Intake>,
    _permit: Permit,
}

impl fmt::Debug for Reader {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Reader").finish_non_exhaustive()
    }
}

impl Reader {
    /// Begins to read a batch of a provider. Returns `None` if too many batches are being read.
    pub(crate) fn begin(intake: &Arc<Intake>, provider: &'static str, batch: Batch) -> Option<Self> {
        let permit = intake.permit(provider)?;
        let (batch, reply) = (Some(Box::new(batch)), Arc::default());
        Some(Self { batch, reply, intake: Arc::clone(intake), _permit: permit })
    }

    /// Waits until the thread has read the previous piece. After that, the caller passes the next piece to
    /// [`read`](Self::read), or calls [`finish`](Self::finish).
    pub(crate) fn poll_ready(&mut self, cx: &Context<'_>) -> Poll<Result<(), BatchError>> {
        if self.batch.is_some() {
            return Poll::Ready(Ok(()));
        }
        let result = ready!(self.reply.poll(cx));
        Poll::Ready(result.map(|batch| self.batch = Some(batch)))
    }

    /// Passes the next piece of the body to the thread.
    pub(crate) fn read(&mut self, piece: Bytes) {
        if let Some(batch) = self.batch.take() {
            self.intake.background.send(Job::new(batch, piece, &self.reply));
        }
    }

    /// Returns the sums of the batch after its last piece.
    ///
    /// # Errors
    /// The body is truncated or damaged.
    pub(crate) fn finish(self) -> Result<Sums, BatchError> {
        self.batch.ok_or(BatchError::Aborted)?.finish()
    }
}
