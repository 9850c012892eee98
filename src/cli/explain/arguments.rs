//! What `explain` is told: a request line, fields, and what the origin answers.

use std::net::IpAddr;

use http::{HeaderMap, HeaderName, HeaderValue, Method, Request, Response, StatusCode, request};

use crate::cli::config_argument::ConfigArgument;
use crate::config::Settings;
use crate::wire::names::HOST;

/// Why nothing can be explained.
pub(super) type Failed = Box<dyn std::error::Error>;

#[derive(Debug, clap::Args)]
pub(in crate::cli) struct ExplainArguments {
    #[command(flatten)]
    pub(super) config: ConfigArgument,
    /// The request's method.
    #[arg(long, default_value = "GET")]
    pub(super) method: Method,
    /// The request's path, with its query.
    #[arg(long)]
    pub(super) path: String,
    /// The identity header's value; left out: the other fields of the request tell whose pull it is.
    #[arg(long)]
    pub(super) provider: Option<String>,
    /// The address that connects.
    #[arg(long, value_name = "ADDRESS", default_value = "127.0.0.1")]
    pub(super) peer: IpAddr,
    // Fields are read by ourselves: a message of clap's would repeat a secret that stands in one.
    /// A further field of the request, `Name: value`; may be given again.
    #[arg(long, value_name = "FIELD")]
    pub(super) request_header: Vec<String>,
    /// The origin's status.
    #[arg(long, default_value = "200")]
    pub(super) status: StatusCode,
    /// A field of the origin's answer, `Name: value`; may be given again.
    #[arg(long, value_name = "FIELD")]
    pub(super) response_header: Vec<String>,
    /// The same as one JSON object.
    #[arg(long)]
    pub(super) json: bool,
}

impl ExplainArguments {
    /// The request, and whether its Host is none that was given.
    pub(super) fn request(&self, settings: &Settings) -> Result<(request::Parts, bool), Failed> {
        let path = Some(self.path.as_str()).filter(|path| path.starts_with('/') || *path == "*");
        let uri = path.and_then(|path| path.parse::<http::Uri>().ok());
        let uri = uri.ok_or("--path: write a path such as /images/logo.png")?;
        let (mut head, ()) = Request::builder().method(&self.method).uri(uri).body(())?.into_parts();
        if let Some(name) = &self.provider {
            let value = HeaderValue::try_from(name).map_err(|_| "--provider: this cannot stand in a header")?;
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

    /// The origin's answer.
    pub(super) fn response(&self) -> Result<Response<()>, Failed> {
        let mut response = Response::new(());
        *response.status_mut() = self.status;
        add(response.headers_mut(), "--response-header", &self.response_header)?;
        Ok(response)
    }
}

/// Adds fields as they were typed. No message repeats one.
fn add(headers: &mut HeaderMap, argument: &str, fields: &[String]) -> Result<(), Failed> {
    for (field, nth) in fields.iter().zip(1..) {
        let wrong = |why: &str| format!("{argument}, the {nth}. of them: {why}; write it as 'Name: value'");
        let (name, value) = field.split_once(':').ok_or_else(|| wrong("there is no colon"))?;
        let name = HeaderName::try_from(name.trim()).map_err(|_| wrong("the name is no header name"))?;
        let value = HeaderValue::try_from(value.trim()).map_err(|_| wrong("the value cannot stand in a header"))?;
        headers.try_append(name, value).map_err(|_| wrong("these are too many"))?;
    }
    Ok(())
}
