//! The result of `explain`, as text and as JSON. Both forms have the same content, except that only the JSON has
//! `client.proven`.

use std::fmt;

use serde::Serialize;

/// All reasons start in one column, to the right of the longest field line that has at most this number of characters.
/// The reason for a longer field line starts further to the right.
const WIDEST: usize = 60;

/// Everything about one request. If edgeshim responds without the origin, the decisions that were not made are missing.
#[derive(Debug, Default, Serialize)]
pub(super) struct Report {
    pub(super) request: Asked,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) provider: Option<Provider>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) proof: Option<Word>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) client: Option<Client>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pull: Option<&'static str>,
    /// The signal which shows that the pull came through a shield (another cache of the CDN) or is a probe (a health
    /// check of the CDN).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pull_sign: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) pop: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) class: Option<Class>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    pub(super) assignments: Vec<Assignment>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) rule: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) admission: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) guards: Option<Vec<&'static str>>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) caching: Option<&'static str>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) gzip: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) page: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) answer: Option<Answer>,
    pub(super) to_origin: Vec<Field>,
    pub(super) not_to_origin: Vec<Field>,
    pub(super) to_cdn: Vec<Field>,
    pub(super) not_to_cdn: Vec<Field>,
}

/// The request line.
#[derive(Debug, Default, Serialize)]
pub(super) struct Asked {
    pub(super) method: String,
    pub(super) path: String,
}

/// The decision about the provider.
#[derive(Debug, Serialize)]
pub(super) struct Provider {
    pub(super) label: &'static str,
    pub(super) why: String,
}

/// A value in the form of the access log, and the reason for this value.
#[derive(Debug, Serialize)]
pub(super) struct Word {
    pub(super) word: &'static str,
    pub(super) why: String,
}

/// The client's address.
#[derive(Debug, Serialize)]
pub(super) struct Client {
    pub(super) address: String,
    /// Whether a CDN with a valid proof reported the address.
    pub(super) proven: bool,
    pub(super) why: String,
}

/// The response's class.
#[derive(Debug, Serialize)]
pub(super) struct Class {
    pub(super) name: String,
    pub(super) why: &'static str,
}

/// The visitor's arm in an experiment.
#[derive(Debug, Serialize)]
pub(super) struct Assignment {
    pub(super) experiment: &'static str,
    /// The arm, or `none`.
    pub(super) arm: &'static str,
    pub(super) why: String,
}

/// A response that edgeshim makes without the origin.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    /// The status. `None` if the status depends on the content of the request.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(super) status: Option<u16>,
    pub(super) reason: String,
}

/// A field line of a head, and the reason why it is present or was removed.
#[derive(Debug, Serialize)]
pub(super) struct Field {
    pub(super) name: String,
    pub(super) value: String,
    pub(super) reason: String,
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut line = |what: &str, text: &dyn fmt::Display| writeln!(f, "{what:<10}{text}");
        line("request", &format_args!("{} {}", self.request.method, self.request.path))?;
        if let Some(Provider { label, why }) = &self.provider {
            line("provider", &format_args!("{label} ({why})"))?;
        }
        if let Some(Word { word, why }) = &self.proof {
            line("proof", &format_args!("{word} ({why})"))?;
        }
        if let Some(Client { address, why, .. }) = &self.client {
            line("client", &format_args!("{address} ({why})"))?;
        }
        if let Some(pull) = self.pull {
            match &self.pull_sign {
                Some(signal) => line("pull", &format_args!("{pull} ({signal})"))?,
                None => line("pull", &pull)?,
            }
        }
        if let Some(pop) = &self.pop {
            line("pop", if pop.is_empty() { &"not known" } else { pop })?;
        }
        if let Some(Class { name, why }) = &self.class {
            line("class", &format_args!("{name} ({why})"))?;
        }
        for Assignment { experiment, arm, why } in &self.assignments {
            line("arm", &format_args!("{experiment}: {arm} ({why})"))?;
        }
        for (what, text) in [("rule", &self.rule), ("admission", &self.admission)] {
            if let Some(text) = text {
                line(what, text)?;
            }
        }
        if let Some(guards) = &self.guards {
            let guards = if guards.is_empty() { "none".to_owned() } else { guards.join(", ") };
            line("guards", &guards)?;
        }
        if let Some(caching) = self.caching {
            line("caching", &caching)?;
        }
        for (what, text) in [("gzip", &self.gzip), ("page", &self.page)] {
            if let Some(text) = text {
                line(what, text)?;
            }
        }
        match &self.answer {
            Some(Answer { status: Some(status), reason }) => line("answer", &format_args!("{status}: {reason}"))?,
            Some(Answer { status: None, reason }) => line("answer", reason)?,
            None => {}
        }
        let heads = [
            ("in", &self.to_origin),
            ("dropped", &self.not_to_origin),
            ("out", &self.to_cdn),
            ("dropped", &self.not_to_cdn),
        ];
        let text = |field: &Field| format!("{}: {}", field.name, field.value);
        let widths = heads.iter().flat_map(|(_, fields)| *fields).map(|field| text(field).chars().count());
        let width = widths.filter(|&width| width <= WIDEST).max().unwrap_or(0);
        for (what, fields) in heads {
            for field in fields {
                line(what, &format_args!("{:<width$}   <- {}", text(field), field.reason))?;
            }
        }
        Ok(())
    }
}
