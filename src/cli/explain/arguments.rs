//! The arguments of `explain`. They are either a request and the head of the origin's response, or a request id and
//! access logs.

use std::net::IpAddr;
use std::path::PathBuf;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};

use crate::cli::config_argument::ConfigArgument;
use crate::config::Settings;
use crate::wire::names::HOST;

/// The error when a request cannot be explained.
pub(super) type Failed = Box<dyn std::error::Error>;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExplainArguments {
    /// The id of a request to find in access logs: the first part of the reference on the error page.
    #[arg(requires = "log", conflicts_with_all = ["config", "path", "provider", "request_header", "response_header"])]
    pub(super) id: Option<String>,
    /// An access log in which to find the request: a file, a gzip file, or `-` for standard input; may be repeated.
    #[arg(long, value_name = "FILE", num_args = 1.., requires = "id")]
    pub(super) log: Vec<PathBuf>,
    #[command(flatten)]
    pub(super) config: ConfigArgument,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    pub(super) method: Method,
    /// The request's path, with its query.
    #[arg(long, required_unless_present = "id")]
    pub(super) path: Option<String>,
    /// The value of the identity header. Without this option, the fields of --request-header decide the provider.
    #[arg(long)]
    pub(super) provider: Option<String>,
    /// The IP address of the peer, which sends the request to edgeshim.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(super) peer: IpAddr,
    // The fields are parsed in this file and not by clap. An error message of clap would repeat the value, which can be
    // a secret.
    /// A field of the request, `Name: value`; may be repeated.
    #[arg(long, value_name = "FIELD")]
    pub(super) request_header: Vec<String>,
    /// The status of the origin's response.
    #[arg(long, default_value = "200")]
    pub(super) status: StatusCode,
    /// A field of the origin's response, `Name: value`; may be repeated.
    #[arg(long, value_name = "FIELD")]
    pub(super) response_header: Vec<String>,
    /// Print the result as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

impl ExplainArguments {
    /// Returns the request's head, and whether its Host was assumed because no argument contains a Host.
    pub(super) fn request(&self, settings: &Settings) -> Result<(request::Parts, bool), Failed> {
        let path = self.path.as_deref().filter(|path| path.starts_with('/') || *path == "*");
        let uri = path.and_then(|path| path.parse::<http::Uri>().ok());
        let uri = uri.ok_or("--path: this is not a valid path; write a path such as /images/logo.png")?;
        let (mut head, ()) = Request::builder().method(&self.method).uri(uri).body(())?.into_parts();
        if let Some(name) = &self.provider {
            let value = HeaderValue::try_from(name)
                .map_err(|_| "--provider: this is not a valid header field value; write a provider's name")?;
            head.headers.append(&settings.identity.header, value);
        }
        add(&mut head.headers, "--request-header", &self.request_header)?;
        let host_assumed = !head.headers.contains_key(HOST);
        if host_assumed {
            let allowed = settings.observe.hosts.first().map(|host| host.replacen('*', "www", 1));
            head.headers.insert(HOST, HeaderValue::try_from(allowed.as_deref().unwrap_or("localhost"))?);
        }
        Ok((head, host_assumed))
    }

    /// Returns the head of the origin's response.
    pub(super) fn response(&self) -> Result<Response<()>, Failed> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        add(response.headers_mut(), "--response-header", &self.response_header)?;
        Ok(response)
    }
}

/// Adds the fields of an argument to a head. No error message repeats a field, because a field can be a secret.
fn add(headers: &mut HeaderMap, argument: &str, fields: &[String]) -> Result<(), Failed> {
    for (field, nth) in fields.iter().zip(1..) {
        let wrong = |why: &str| format!("{argument}, number {nth}: {why}; write a field such as 'Name: value'");
        let (name, value) = field.split_once(':').ok_or_else(|| wrong("there is no colon"))?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong("the name is not a valid field name"))?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| wrong("the value is not a valid field value"))?;
        headers
            .try_append(name, value)
            .map_err(|_| format!("{argument}, number {nth}: there are too many fields; write fewer fields"))?;
    }
    Ok(())
}
