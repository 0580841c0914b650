//! Answers of a registry.

use bytes::Bytes;
use reqwest::header::{CONTENT_LENGTH, CONTENT_TYPE, HeaderMap, HeaderName, RETRY_AFTER};
use reqwest::{Response, StatusCode};
use serde::Deserialize;

use std::time::{Duration, SystemTime};

use super::failure::{Failure, Remedy, explain, too_late};
use crate::error::{Error, ErrorKind, Result};

/// What is read of an answer that only says why not.
const MAX_EXPLANATION: u64 = 16 << 10;
/// What is shown of one that is no JSON.
const SHOWN: usize = 200;

/// An answer whose body has not been read yet.
#[derive(Debug)]
pub(super) struct Answer {
    pub(super) response: Response,
    /// How long nothing may come.
    pub(super) patience: Duration,
    /// Another host than was asked answers.
    pub(super) elsewhere: bool,
}

impl Answer {
    pub(super) fn status(&self) -> StatusCode {
        self.response.status()
    }

    pub(super) fn headers(&self) -> &HeaderMap {
        self.response.headers()
    }

    pub(super) fn url(&self) -> &reqwest::Url {
        self.response.url()
    }

    pub(super) fn header(&self, name: HeaderName) -> Option<&str> {
        self.headers().get(name)?.to_str().ok()
    }

    /// The media type, without parameters.
    pub(super) fn media_type(&self) -> Option<&str> {
        Some(self.header(CONTENT_TYPE)?.split(';').next().unwrap_or_default().trim())
    }

    /// How long the body says that it is.
    pub(super) fn length(&self) -> Option<u64> {
        self.header(CONTENT_LENGTH)?.parse().ok()
    }

    /// The next piece of the body; `None` at its end.
    pub(super) async fn piece(&mut self) -> Result<Option<Bytes>, Failure> {
        match tokio::time::timeout(self.patience, self.response.chunk()).await {
            Ok(piece) => piece.map_err(|err| explain(&err)),
            Err(_) => Err(too_late()),
        }
    }

    /// The whole body. More than `limit` bytes are an error, and never held.
    pub(super) async fn document(mut self, limit: u64) -> Result<Vec<u8>, Failure> {
        let too_long =
            || Error::new(ErrorKind::Malformed, format!("its answer has more than {limit} bytes"));
        if self.length().is_some_and(|length| length > limit) {
            return Err(too_long().into());
        }
        let mut body = Vec::new();
        while let Some(piece) = self.piece().await? {
            if (body.len() + piece.len()) as u64 > limit {
                return Err(too_long().into());
            }
            body.extend_from_slice(&piece);
        }
        Ok(body)
    }

    /// Reads JSON.
    pub(super) async fn json<T: for<'de> Deserialize<'de>>(self, limit: u64) -> Result<T, Failure> {
        let page = self.is_page();
        let body = self.document(limit).await?;
        serde_json::from_slice(&body).map_err(|err| match page {
            true => web_page().into(),
            false => {
                Error::new(ErrorKind::Malformed, format!("its answer cannot be read: {err}")).into()
            }
        })
    }

    /// Whether it is made for people.
    pub(super) fn is_page(&self) -> bool {
        self.media_type().is_some_and(|it| it.eq_ignore_ascii_case("text/html"))
    }

    /// How long to wait before the next attempt, if it says.
    fn retry_after(&self) -> Option<Duration> {
        let text = self.header(RETRY_AFTER)?;
        if let Ok(seconds) = text.trim().parse::<u64>() {
            return Some(Duration::from_secs(seconds));
        }
        let at = jiff::fmt::rfc2822::parse(text).ok()?.timestamp();
        Some(SystemTime::from(at).duration_since(SystemTime::now()).unwrap_or_default())
    }

    /// Says why a request was refused.
    pub(super) async fn refusal(self) -> Failure {
        let (status, retry_after, page) = (self.status(), self.retry_after(), self.is_page());
        // What another host says may be none of the reader's business: a hostile registry could point at any.
        let said = match self.elsewhere {
            true => None,
            false => explanation(self).await,
        };
        let mut message = format!("it answers {status}");
        if let Some(said) = &said {
            message.push_str(": ");
            message.push_str(said);
        }
        let (kind, hint) = match status {
            StatusCode::UNAUTHORIZED => (
                ErrorKind::PermissionDenied,
                Some(
                    "log in (Registry::login, or `docker login`), or check the name: many registries ask for a login where nothing is",
                ),
            ),
            StatusCode::FORBIDDEN => (
                ErrorKind::PermissionDenied,
                Some(
                    "this user may not do that there: log in as one who may, or ask for the right to",
                ),
            ),
            StatusCode::NOT_FOUND => (ErrorKind::NotFound, None),
            StatusCode::TOO_MANY_REQUESTS => (
                ErrorKind::ResourceExhausted,
                Some("it allows more requests later, and often more to who is logged in"),
            ),
            StatusCode::REQUEST_TIMEOUT => (ErrorKind::TimedOut, None),
            StatusCode::RANGE_NOT_SATISFIABLE => (ErrorKind::Malformed, None),
            status if status.is_server_error() => {
                (ErrorKind::Unavailable, Some("the registry is in trouble: try again later"))
            }
            _ if page => {
                (ErrorKind::Malformed, Some("this may be a web server that is no registry"))
            }
            _ => (ErrorKind::Unavailable, None),
        };
        let mut error = Error::new(kind, message);
        if let Some(hint) = hint {
            error = error.with_hint(hint);
        }
        let again = status.is_server_error() && status != StatusCode::NOT_IMPLEMENTED
            || matches!(status, StatusCode::TOO_MANY_REQUESTS | StatusCode::REQUEST_TIMEOUT);
        let remedy = if again { Remedy::Again(retry_after) } else { Remedy::None };
        Failure { error, remedy }
    }
}

pub(super) fn web_page() -> Error {
    Error::new(ErrorKind::Malformed, "it answers with a web page")
        .with_hint("this may be a web server that is no registry, or a network that wants a login")
}

#[derive(Deserialize)]
struct Explanation {
    #[serde(default)]
    errors: Vec<Reason>,
    /// As token servers and Docker Hub's search write.
    #[serde(default, alias = "details", alias = "message", alias = "error_description")]
    detail: Option<String>,
}

#[derive(Deserialize)]
struct Reason {
    #[serde(default)]
    code: String,
    #[serde(default)]
    message: String,
}

/// The other side's own words.
async fn explanation(answer: Answer) -> Option<String> {
    let page = answer.is_page();
    let body = answer.document(MAX_EXPLANATION).await.ok()?;
    if let Ok(Explanation { errors, detail }) = serde_json::from_slice(&body) {
        let reasons = errors.into_iter().take(3).map(|Reason { code, message }| {
            if message.is_empty() {
                code
            } else if code.is_empty() {
                message
            } else {
                format!("{code}: {message}")
            }
        });
        let reasons: Vec<_> = reasons.collect();
        let said = if reasons.is_empty() { detail? } else { reasons.join(", ") };
        return Some(said);
    }
    if page {
        return None;
    }
    let text = String::from_utf8_lossy(&body);
    let text: String = text.trim().chars().take(SHOWN).collect();
    (!text.is_empty()).then_some(text)
}
