//! Replaces the running process by a new process without a lost connection (SIGUSR2).
//!
//! The running process starts its program again and passes its listening sockets, as a service manager does
//! (`LISTEN_FDS`). Both processes then have the same sockets with the same queues of connections, so no connection is
//! lost when the old process closes its descriptors. The last descriptor is a datagram socket on which the new process
//! reports that it serves. Then the old process drains. If the new process ends before its report, or sends no report
//! within two minutes, the old process continues to serve.

use std::error::Error;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixDatagram;
use std::process::{Child, Command};
use std::thread;
use std::time::{Duration, Instant};

use command_fds::{CommandFdExt as _, FdMapping};
use tokio::sync::mpsc::UnboundedSender;

use crate::runtime::{PREDECESSOR, Socket};

/// The first descriptor of the passed sockets.
const FIRST: usize = 3;
/// The report of the new process.
const READY: &[u8] = b"READY=1";
/// The time between two checks whether the new process still runs.
const POLL: Duration = Duration::from_millis(100);
/// The time in which the new process must read its configuration and report that it serves.
const START_LIMIT: Duration = Duration::from_mins(2);

/// The result of an attempt to hand over.
pub(super) enum Outcome {
    /// The new process, which has this process id, serves.
    Ready(u32),
    /// The new process has ended, was killed or cannot be watched. The text says why.
    Failed(String),
}

/// Starts the new process, and a thread that sends the result of the hand-over to `outcomes`.
pub(super) fn start(sockets: Vec<(String, Socket)>, outcomes: UnboundedSender<Outcome>) -> Result<(), Box<dyn Error>> {
    let (ours, theirs) = UnixDatagram::pair()?;
    let names: Vec<_> = sockets.iter().map(|(name, _)| name.as_str()).chain([PREDECESSOR]).collect();
    let names = (names.len().to_string(), names.join(":"));
    let descriptors = sockets.into_iter().map(|(_, socket)| OwnedFd::from(socket)).chain([theirs.into()]);
    let mappings = descriptors
        .zip(FIRST..)
        .map(|(parent_fd, number)| Ok(FdMapping { parent_fd, child_fd: i32::try_from(number)? }))
        .collect::<Result<Vec<_>, std::num::TryFromIntError>>()?;
    let mut arguments = std::env::args_os();
    // The first argument is the path with which this process was started. If this path is a symbolic link, the link can
    // now lead to a new version of the program.
    let mut command = Command::new(arguments.next().ok_or("the name of the program is not known")?);
    command.args(arguments);
    command.env("LISTEN_FDS", names.0).env("LISTEN_FDNAMES", names.1);
    command.env_remove("LISTEN_PID").fd_mappings(mappings)?;
    let child = command.spawn()?;
    drop(command);
    ours.set_read_timeout(Some(POLL))?;
    thread::Builder::new().name("hand-over".to_owned()).spawn(move || drop(outcomes.send(outcome(child, &ours))))?;
    Ok(())
}

/// Waits until the new process ends, or reports that it serves. After [`START_LIMIT`], kills the new process.
fn outcome(mut child: Child, ready: &UnixDatagram) -> Outcome {
    let mut report = [0; READY.len()];
    let started = Instant::now();
    loop {
        if ready.recv(&mut report).is_ok_and(|length| report.get(..length) == Some(READY)) {
            return Outcome::Ready(child.id());
        }
        match child.try_wait() {
            Ok(None) if started.elapsed() < START_LIMIT => {}
            Ok(None) => {
                // If the process cannot be killed, it has just ended.
                let _ = child.kill();
                let _ = child.wait();
                let limit = START_LIMIT.as_secs();
                return Outcome::Failed(format!("the new process was not ready within {limit} s, and was killed"));
            }
            Ok(Some(status)) => return Outcome::Failed(format!("the new process has ended ({status})")),
            Err(error) => return Outcome::Failed(format!("the new process cannot be watched: {error}")),
        }
    }
}

/// Reports to the old process that this process, its successor, serves.
pub(super) fn report(predecessor: &UnixDatagram) -> io::Result<()> {
    predecessor.send(READY).map(drop)
}
