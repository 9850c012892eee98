//! The runtime of a command, the question before a change, and the signals that stop a command.

use std::io::{BufRead, Read as _, Write as _};

use tokio::signal::unix::{SignalKind, signal};
use tokio::sync::mpsc;

use super::{Failure, Result};
use crate::balance::interrupt::Interrupt;

/// The longest answer that is read, in bytes.
const MAX_ANSWER_BYTES: u64 = 1024;

/// Runs the work of a command.
pub(super) fn with_runtime(work: impl Future<Output = Result>) -> Result {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(|error| Failure::failed(format!("no runtime ({error})")))?;
    let result = runtime.block_on(work);
    // A name lookup can still run in a thread after its time limit. The command does not wait for this thread.
    runtime.shutdown_background();
    result
}

/// Whether SIGINT, SIGTERM or SIGHUP has arrived.
pub(super) struct Stop {
    pub interrupt: Interrupt,
}

impl Stop {
    /// Starts to wait for the signals. If the process ignores SIGHUP, SIGHUP stays ignored: `nohup` starts a program
    /// with SIGHUP ignored, so that the program goes on after the terminal has closed.
    pub(super) fn watch() -> Result<Self> {
        let interrupt = Interrupt::default();
        let hangup = (!ignores_hangup()).then(SignalKind::hangup);
        for kind in [SignalKind::interrupt(), SignalKind::terminate()].into_iter().chain(hangup) {
            let mut signal = signal(kind).map_err(|error| Failure::failed(format!("no signal handler ({error})")))?;
            let interrupt = interrupt.clone();
            tokio::spawn(async move {
                while signal.recv().await.is_some() {
                    interrupt.set();
                }
            });
        }
        Ok(Self { interrupt })
    }

    /// Waits for a future. If a signal arrives first, returns [`Failure::Interrupted`]. The
    /// future is dropped then, so the future itself must not write to DNS.
    pub(super) async fn or<T>(&self, future: impl Future<Output = T>) -> Result<T> {
        tokio::select! {
            biased;
            () = self.interrupt.wait() => Err(Failure::Interrupted),
            value = future => Ok(value),
        }
    }
}

/// Returns whether this process ignores SIGHUP, which is signal 1 and so bit 0 of the mask.
fn ignores_hangup() -> bool {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    let mask = status.lines().find_map(|line| line.strip_prefix("SigIgn:"));
    mask.and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok()).is_some_and(|mask| mask & 1 == 1)
}

/// Reads a line. Of a line that is too long, only the first [`MAX_ANSWER_BYTES`] are returned, and the rest is skipped.
/// `None`: the input has ended or cannot be read.
fn line(input: &mut impl BufRead) -> Option<String> {
    let mut line = Vec::new();
    let length = input.by_ref().take(MAX_ANSWER_BYTES).read_until(b'\n', &mut line).ok()?;
    if line.len() as u64 == MAX_ANSWER_BYTES && !line.ends_with(b"\n") {
        input.skip_until(b'\n').ok()?;
    }
    (length > 0).then(|| String::from_utf8_lossy(&line).into_owned())
}

/// Asks whether to make the change. The end of the input means no.
pub(super) async fn confirm(stop: &Stop) -> Result<()> {
    let (sender, mut lines) = mpsc::channel(1);
    // The thread can wait for input for ever. In this case, the thread ends with the process.
    std::thread::spawn(move || {
        let mut input = std::io::stdin().lock();
        loop {
            let line = line(&mut input);
            let is_end = line.is_none();
            if sender.blocking_send(line).is_err() || is_end {
                return;
            }
        }
    });
    loop {
        crate::cli::terminal::print("\nMake this change? [y/N] ");
        let _ = std::io::stdout().flush();
        let line = match stop.or(lines.recv()).await {
            Ok(line) => line.flatten(),
            Err(failure) => {
                say!("");
                return Err(failure);
            }
        };
        match line.as_deref().map(|line| line.trim().to_ascii_lowercase()).as_deref() {
            Some("y" | "yes") => return Ok(()),
            Some("n" | "no" | "") => return Err(Failure::failed("not confirmed; nothing was changed")),
            Some(_) => say!("Write y or n."),
            None => {
                say!("");
                let text = "the input ended without an answer; nothing was changed; in a script, write --yes";
                return Err(Failure::failed(text));
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::process::ExitCode;

    use super::*;

    #[test]
    fn command_when_a_lookup_still_runs_in_a_thread_then_ends() {
        let (sender, receiver) = std::sync::mpsc::channel::<()>();
        let (started, has_started) = std::sync::mpsc::channel();
        let result = with_runtime(async {
            tokio::task::spawn_blocking(move || {
                let _ = started.send(());
                // This call waits until the command has ended and `sender` is dropped.
                let _ = receiver.recv();
            });
            has_started.recv().expect("the thread starts");
            Ok(ExitCode::SUCCESS)
        });
        assert!(result.is_ok());
        drop(sender);
    }
}
