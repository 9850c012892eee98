//! Runs a program of the operator that reads and writes the weights of a DNS service for which edgeshim has no client.
//! For each read and each write, edgeshim starts the program and sends one JSON object to its standard input.
//! `deploy/balance/README.md` describes the objects.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::OwnedFd;
use std::os::unix::process::CommandExt as _;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread;
use std::time::Duration;

use rustix::process::{Pid, Signal, WaitOptions, kill_process_group, waitpid};
use serde_json::{Map, Value, json};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::unix::pipe::{Receiver, Sender};
use tokio::sync::Notify;
use tokio::time::error::Elapsed;
use tokio::time::{sleep, timeout};

use super::{Wanted, Write};
use crate::balance::api_call::report;
use crate::balance::balance_file::{ServiceKeys, TargetKeys};
use crate::balance::node::{Found, Holding, Record};
use crate::balance::share::Shares;
use crate::keys::quote;

/// The largest number of bytes that are read from standard output, and from standard error.
const MAX_OUTPUT_BYTES: u64 = 16 * 1024 * 1024;
/// How long the output is read after the program has ended. A background process of the program can keep the output
/// open for ever. The output of the program itself is already in the pipe, so it arrives within this time.
const AFTER_END: Duration = Duration::from_secs(1);
/// The time between two checks of whether the program has ended. tokio's feature `process` needs no such checks, but
/// with this feature each worker of the proxy runs further atomic instructions whenever it waits.
const CHECK_INTERVAL: Duration = Duration::from_millis(5);

/// A program that edgeshim calls in place of the API of a DNS service.
#[derive(Debug)]
pub(crate) struct External {
    name: String,
    command: Vec<String>,
    limit: Duration,
    is_verbose: bool,
}

impl External {
    pub(super) fn new(keys: &ServiceKeys, is_verbose: bool) -> Self {
        Self { name: keys.name.clone(), command: keys.command.clone(), limit: keys.timeout, is_verbose }
    }

    pub(super) async fn read(&self, target: &TargetKeys) -> Result<BTreeMap<String, Found>, String> {
        let output = self.run(&json!({ "op": "read", "zone": target.zone, "nodes": target.nodes })).await?;
        let answer: Value = serde_json::from_slice(&output).map_err(|error| {
            format!(
                "{}: the program's answer to \"read\" is not JSON ({error}); it must be {{\"nodes\": {{…}}}}",
                self.name
            )
        })?;
        let Some(nodes) = answer.get("nodes").and_then(Value::as_object) else {
            return Err(format!("{}: the program's answer to \"read\" has no object \"nodes\"", self.name));
        };
        let found = |node: &String| match nodes.get(node) {
            None => Err(format!("{}: the program's answer to \"read\" has no entry for {node}", self.name)),
            Some(raw) => Ok((node.clone(), Found { holding: holding(target, raw), raw: raw.clone() })),
        };
        target.nodes.iter().map(found).collect()
    }

    pub(super) async fn write(&self, target: &TargetKeys, writes: &[Write<'_>]) -> Result<(), String> {
        let state = |write: &Write<'_>| match write.wanted {
            Wanted::Record(record) => state(target, record),
            Wanted::Raw(raw) => raw.clone(),
        };
        let nodes: Map<_, _> = writes.iter().map(|write| (write.node.to_owned(), state(write))).collect();
        self.run(&json!({ "op": "write", "zone": target.zone, "nodes": nodes })).await.map(|_| ())
    }

    /// Runs the program with this input. Returns its output.
    async fn run(&self, input: &Value) -> Result<Vec<u8>, String> {
        let name = &self.name;
        let (program, arguments) = self.command.split_first().ok_or_else(|| format!("{name}: command is empty"))?;
        let child = Command::new(program)
            .args(arguments)
            .stdin(Stdio::piped())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            // The program has a process group of its own. So the terminal's SIGINT does not reach the program in the
            // middle of a change. The processes that the program starts are in the same group, so all can be killed.
            .process_group(0)
            .spawn();
        let failed = |error: io::Error| format!("{name}: {} cannot be started ({error})", quote(program));
        let mut group = Group { child: child.map_err(failed)?, has_ended: false };
        let (stdin, stdout, stderr) = group.pipes().map_err(failed)?;
        let input = input.to_string();
        let (mut output, mut errors) = (Vec::new(), Vec::new());
        let exchange = async {
            let write = async {
                if let Some(mut stdin) = stdin {
                    // A program may ignore its input. Its exit code decides whether it has succeeded.
                    let _ = stdin.write_all(input.as_bytes()).await;
                }
            };
            let ended = Notify::new();
            let end = async {
                let status = timeout(self.limit, group.wait()).await?;
                ended.notify_one();
                Ok(status)
            };
            let streams = async {
                let late = async {
                    ended.notified().await;
                    sleep(AFTER_END).await;
                };
                tokio::select! {
                    _ = async { tokio::join!(write, fill(stdout, &mut output), fill(stderr, &mut errors)) } => {}
                    () = late => {}
                }
                Ok(())
            };
            tokio::try_join!(end, streams)
        };
        let (status, ()) = exchange.await.map_err(|_: Elapsed| {
            let limit = self.limit.as_millis();
            format!("{name}: {} did not end within {limit} ms, and was killed", quote(program))
        })?;
        let status = status.map_err(|error| format!("{name}: {} failed ({error})", quote(program)))?;
        if self.is_verbose {
            report(&format!("{name}: {}: {status}, {} bytes", quote(program), output.len()));
        }
        if status.success() {
            return Ok(output);
        }
        let errors = String::from_utf8_lossy(&errors);
        let last = errors.lines().rfind(|line| !line.trim().is_empty()).map(|line| format!(": {}", quote(line.trim())));
        Err(format!("{name}: {} failed ({status}){}", quote(program), last.unwrap_or_default()))
    }
}

/// A program and the processes that it starts. If this value is dropped while the program runs, all of them are killed.
struct Group {
    child: Child,
    /// Whether [`wait`](Self::wait) has returned the status. From then on, another process group can have the same
    /// number.
    has_ended: bool,
}

impl Group {
    /// Returns the program's standard input, standard output and standard error.
    fn pipes(&mut self) -> io::Result<(Option<Sender>, Option<Receiver>, Option<Receiver>)> {
        let Child { stdin, stdout, stderr, .. } = &mut self.child;
        let stdin = stdin.take().map(|stdin| Sender::from_owned_fd(OwnedFd::from(stdin))).transpose()?;
        let stdout = stdout.take().map(|stdout| Receiver::from_owned_fd(OwnedFd::from(stdout))).transpose()?;
        let stderr = stderr.take().map(|stderr| Receiver::from_owned_fd(OwnedFd::from(stderr))).transpose()?;
        Ok((stdin, stdout, stderr))
    }

    /// Waits until the program has ended.
    async fn wait(&mut self) -> io::Result<ExitStatus> {
        loop {
            if let Some(status) = self.child.try_wait()? {
                self.has_ended = true;
                return Ok(status);
            }
            sleep(CHECK_INTERVAL).await;
        }
    }
}

impl Drop for Group {
    fn drop(&mut self) {
        if self.has_ended {
            return;
        }
        let id = Pid::from_child(&self.child);
        let _ = kill_process_group(id, Signal::KILL);
        // The kernel keeps an entry for the killed program until a thread has waited for it. A program can take long to
        // end even after SIGKILL, for example while a network file system does not respond.
        let reap = move || waitpid(Some(id), WaitOptions::empty());
        let _ = thread::Builder::new().name("reap".to_owned()).spawn(reap);
    }
}

async fn fill(stream: Option<Receiver>, bytes: &mut Vec<u8>) {
    if let Some(stream) = stream {
        // After an error, the bytes before the error are used. The JSON parser reports an incomplete answer to "read".
        let _ = stream.take(MAX_OUTPUT_BYTES).read_to_end(bytes).await;
    }
}

/// Writes a record as JSON. The program stores this JSON as the state of a node.
fn state(target: &TargetKeys, record: &Record) -> Value {
    let mut providers = record.shares.to_json();
    for (name, keys) in &target.providers {
        let stored = record.weights.iter().find(|run| run.0 == *name).map_or(0, |run| run.1);
        if let Some(provider) = providers.get_mut(name) {
            provider["cname"] = keys.cname.clone().into();
            provider["dns_weight"] = stored.into();
        }
    }
    json!({ "ttl": target.ttl.as_secs(), "providers": providers })
}

fn holding(target: &TargetKeys, raw: &Value) -> Holding {
    if raw.is_null() {
        return Holding::Nothing;
    }
    let Some(providers) = raw.get("providers") else {
        return match raw.get("cname").and_then(Value::as_str) {
            Some(cname) => match target.provider_of(cname) {
                Some(provider) => Holding::Cname(provider.to_owned()),
                None => Holding::Foreign(format!("a CNAME to {}", quote(cname))),
            },
            None => Holding::Foreign(format!("a state without providers: {}", quote(&raw.to_string()))),
        };
    };
    let Some(shares) = Shares::from_json(providers) else {
        let shown = quote(&providers.to_string());
        return Holding::Foreign(format!("providers without a valid mode and weight: {shown}"));
    };
    let weight = |name: &String| {
        let weight = providers.get(name)?.get("dns_weight")?.as_u64()?;
        Some((name.clone(), u32::try_from(weight).ok().filter(|weight| *weight > 0)?))
    };
    let record = Record { weights: shares.0.keys().filter_map(weight).collect(), shares };
    // If balance.toml no longer has a served provider, `refuse` reports this provider by its name.
    if record.weights.iter().all(|run| target.providers.contains_key(&run.0)) && !fits(raw, &state(target, &record)) {
        return Holding::Edited(
            record,
            "the ttl or a cname is not as in balance.toml, or a dns_weight is missing or not valid".to_owned(),
        );
    }
    Holding::Ours(record)
}

/// Returns whether a state has all keys and values of `wanted`. Additional keys are allowed.
fn fits(state: &Value, wanted: &Value) -> bool {
    match (state, wanted) {
        (Value::Object(state), Value::Object(wanted)) => {
            wanted.iter().all(|(key, wanted)| state.get(key).is_some_and(|state| fits(state, wanted)))
        }
        _ => state == wanted,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::balance::dns::sample_target as target;
    use crate::balance::share::{Mode, Share};

    fn sample() -> Record {
        let shares = [("a", Share::new(Mode::Obey, 5)), ("b", Share::new(Mode::No, 15))];
        Record {
            shares: Shares(shares.map(|(name, share)| (name.to_owned(), share)).into()),
            weights: vec![("a".to_owned(), 1)],
        }
    }

    #[test]
    fn program_when_killed_then_leaves_no_zombie() {
        let child = Command::new("sleep").arg("600").process_group(0).spawn().unwrap();
        let entry = std::path::PathBuf::from(format!("/proc/{}", child.id()));
        assert!(entry.exists());
        drop(Group { child, has_ended: false });
        let end = std::time::Instant::now() + Duration::from_mins(1);
        while entry.exists() {
            assert!(std::time::Instant::now() < end, "the killed program is still in /proc");
            thread::yield_now();
        }
    }

    #[test]
    fn state_when_read_back_then_is_the_same_record() {
        let mut raw = state(&target(), &sample());
        assert_eq!(
            raw,
            json!({ "ttl": 60, "providers": {
                "a": { "mode": "obey", "weight": 5, "cname": "a.example.net", "dns_weight": 1 },
                "b": { "mode": "no", "weight": 15, "cname": "b.example.net", "dns_weight": 0 },
            } })
        );
        assert_eq!(holding(&target(), &raw), Holding::Ours(sample()));
        raw["note"] = "of the program".into();
        assert_eq!(holding(&target(), &raw), Holding::Ours(sample()), "additional keys are allowed");
    }

    #[test]
    fn state_when_not_written_by_edgeshim_then_is_nothing_cname_foreign_or_edited() {
        assert_eq!(holding(&target(), &Value::Null), Holding::Nothing);
        assert_eq!(holding(&target(), &json!({ "cname": "b.example.net." })), Holding::Cname("b".to_owned()));
        for raw in [json!(7), json!({}), json!({ "cname": "c.example" }), json!({ "providers": { "a": {} } })] {
            assert!(matches!(holding(&target(), &raw), Holding::Foreign(_)), "{raw}");
        }
        let mut edited = state(&target(), &sample());
        edited["ttl"] = 61.into();
        assert!(matches!(holding(&target(), &edited), Holding::Edited(..)));
        let mut edited = state(&target(), &sample());
        edited["providers"]["a"]["cname"] = "old.example.net".into();
        assert!(matches!(holding(&target(), &edited), Holding::Edited(..)));
    }
}
