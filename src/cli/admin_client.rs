//! Reads from the admin listener of a running edgeshim. The listener can be slow or hostile, or can belong to another
//! program, so each request has a limit in time and a limit in bytes.

use std::path::{Path, PathBuf};
use std::time::Duration;

use bytes::Bytes;
use http::{HeaderValue, Request, StatusCode};
use http_body_util::{BodyExt as _, Empty, LengthLimitError, Limited};
use hyper::client::conn::http1;
use hyper_util::rt::TokioIo;
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::runtime::{Builder, Runtime};

use crate::keys::quote;
use crate::keys::secrets::SECRET;
use crate::keys::urls::{host_and_port, socket_path, strip_scheme};
use crate::wire::names::{AUTHORIZATION, HOST};
use crate::wire::secret::Secret;

/// A client for one admin listener.
pub(super) struct AdminClient {
    address: Address,
    host: HeaderValue,
    authorization: Option<HeaderValue>,
    /// `None` only while the client is dropped.
    runtime: Option<Runtime>,
}

#[derive(Debug, PartialEq, Eq)]
enum Address {
    Tcp(String, u16),
    Unix(PathBuf),
}

impl AdminClient {
    /// Returns a client for the listener at `url`: `http://HOST:PORT`, with or without `/` or `/metrics` at the end, or
    /// `unix:PATH`. Without a port, the port is 80. `token` is the value of the option `--token`. `option` is the name
    /// of the option that has the URL, for messages.
    ///
    /// # Errors
    /// Returns a message for the user.
    pub(super) fn new(option: &str, url: &str, token: Option<&str>) -> Result<Self, String> {
        let (address, host) = address(url).map_err(|why| format!("{option} {} {why}", quote(url)))?;
        let authorization = token.map(read_token).transpose()?.map(|token| {
            let mut value = HeaderValue::try_from(format!("Bearer {}", token.expose()))
                .unwrap_or(HeaderValue::from_static("Bearer"));
            value.set_sensitive(true);
            value
        });
        let runtime = Builder::new_current_thread().enable_all().build();
        let runtime = Some(runtime.map_err(|error| format!("the runtime cannot start: {error}"))?);
        Ok(Self { address, host, authorization, runtime })
    }

    /// Returns the body of a 200 response.
    ///
    /// # Errors
    /// Returns a message for the user: the listener cannot be reached, does not send a complete HTTP response, responds
    /// with another status, or exceeds one of the limits.
    pub(super) fn get(&self, path: &str, most_bytes: usize, limit: Duration) -> Result<Vec<u8>, String> {
        let Some(runtime) = &self.runtime else { return Err("the client has ended".to_owned()) };
        runtime.block_on(async {
            match tokio::time::timeout(limit, self.exchange(path, most_bytes)).await {
                Ok(result) => result,
                Err(_) => Err(format!("no complete response within {} s", limit.as_secs_f32())),
            }
        })
    }

    async fn exchange(&self, path: &str, most_bytes: usize) -> Result<Vec<u8>, String> {
        let mut request = Request::get(path).body(Empty::new()).map_err(|error| error.to_string())?;
        request.headers_mut().insert(HOST, self.host.clone());
        if let Some(authorization) = &self.authorization {
            request.headers_mut().insert(AUTHORIZATION, authorization.clone());
        }
        let unreachable = |error: std::io::Error| {
            format!("no connection ({error}); is edgeshim running, and is this its admin.listen?")
        };
        match &self.address {
            Address::Tcp(host, port) => {
                let stream = TcpStream::connect((host.as_str(), *port)).await.map_err(unreachable)?;
                ask(stream, request, most_bytes).await
            }
            Address::Unix(socket) => {
                ask(UnixStream::connect(socket).await.map_err(unreachable)?, request, most_bytes).await
            }
        }
    }
}

impl Drop for AdminClient {
    fn drop(&mut self) {
        // After the time limit of a request, a name lookup can still run in a thread. The command must not wait for
        // this thread.
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_background();
        }
    }
}

async fn ask<S>(stream: S, request: Request<Empty<Bytes>>, most_bytes: usize) -> Result<Vec<u8>, String>
where
    S: AsyncRead + AsyncWrite + Unpin + Send + 'static,
{
    let failed = |error: hyper::Error| format!("{error}; is this the admin listener of edgeshim?");
    let (mut sender, connection) = http1::handshake(TokioIo::new(stream)).await.map_err(failed)?;
    tokio::spawn(connection);
    let (head, body) = sender.send_request(request).await.map_err(failed)?.into_parts();
    if head.status != StatusCode::OK {
        let remedy = match head.status {
            StatusCode::UNAUTHORIZED => "; write the value of admin.token as --token env:NAME or --token file:PATH",
            StatusCode::FORBIDDEN => "; write an IP address or localhost in the URL, or set admin.token",
            StatusCode::NOT_FOUND => "; is this the admin listener of edgeshim?",
            _ => "",
        };
        return Err(format!("status {}{remedy}", head.status.as_u16()));
    }
    match Limited::new(body, most_bytes).collect().await {
        Ok(body) => Ok(body.to_bytes().into()),
        Err(error) if error.is::<LengthLimitError>() => {
            Err(format!("the response is longer than {most_bytes} bytes; is this the admin listener of edgeshim?"))
        }
        Err(error) => Err(format!("the response broke off: {error}")),
    }
}

fn read_token(text: &str) -> Result<Secret, String> {
    token_argument(text, SECRET.read)
}

/// Reads the option `--token` with `read`. A secret on the command line itself is refused, because other users can see
/// the command line.
pub(super) fn token_argument(
    text: &str,
    read: impl Fn(&str, &Path) -> Result<Secret, String>,
) -> Result<Secret, String> {
    if !text.starts_with("env:") && !text.starts_with("file:") {
        let why = "other users of this machine can see the command line";
        return Err(format!("--token must not be the secret itself, because {why}; write env:NAME or file:PATH"));
    }
    read(text, Path::new("")).map_err(|why| format!("--token {} {why}", quote(text)))
}

/// Returns the address of the listener, and the value of Host.
fn address(url: &str) -> Result<(Address, HeaderValue), String> {
    const REMEDY: &str =
        "write the address of admin.listen, such as http://127.0.0.1:9900 or unix:/run/edgeshim/admin.sock";
    if let Some(path) = url.strip_prefix("unix:") {
        let path = socket_path(path, Path::new(""))?;
        return Ok((Address::Unix(path), HeaderValue::from_static("localhost")));
    }
    let Some(rest) = strip_scheme(url, "http://") else {
        return Err(format!("is not the URL of an admin listener; {REMEDY}"));
    };
    let rest = rest.strip_suffix("/metrics").unwrap_or(rest);
    let authority = rest.strip_suffix('/').unwrap_or(rest);
    let host = HeaderValue::try_from(authority).ok();
    match (host_and_port(authority), host) {
        (Some((name, port)), Some(host)) => {
            let name = name.trim_start_matches('[').trim_end_matches(']').to_owned();
            Ok((Address::Tcp(name, port.unwrap_or(80)), host))
        }
        _ => Err(format!("has no valid host and port, or has a path; {REMEDY}")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn url_when_of_an_admin_listener_then_accepted_and_other_urls_are_rejected() {
        let tcp = |host: &str, port| Some(Address::Tcp(host.to_owned(), port));
        for (url, expected) in [
            ("http://127.0.0.1:9900", tcp("127.0.0.1", 9900)),
            ("http://127.0.0.1:9900/", tcp("127.0.0.1", 9900)),
            ("http://127.0.0.1:9900/metrics", tcp("127.0.0.1", 9900)),
            ("http://[::1]:9900", tcp("::1", 9900)),
            ("http://admin.test", tcp("admin.test", 80)),
            ("unix:/run/a.sock", Some(Address::Unix("/run/a.sock".into()))),
            ("https://127.0.0.1:9900", None),
            ("127.0.0.1:9900", None),
            ("http://127.0.0.1:9900/api", None),
            ("http://u:p@127.0.0.1:9900", None),
            ("http://", None),
            ("unix:", None),
        ] {
            assert_eq!(address(url).ok().map(|(address, _)| address), expected, "{url}");
        }
    }

    #[test]
    fn token_when_env_then_read_and_when_the_secret_itself_then_rejected_and_not_shown() {
        let message = read_token("hunter2").unwrap_err();
        assert!(message.contains("env:NAME") && !message.contains("hunter2"), "{message}");
        assert_eq!(read_token("env:CARGO_PKG_NAME").unwrap().expose(), "edgeshim");
        assert!(read_token("env:EDGESHIM_UNSET").unwrap_err().contains("not set"));
    }
}
