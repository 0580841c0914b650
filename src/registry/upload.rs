//! One blob into a repository: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#push>.

use std::sync::{Arc, Mutex};

use reqwest::header::{
    CONTENT_LENGTH, CONTENT_RANGE, CONTENT_TYPE, HeaderName, HeaderValue, LOCATION, RANGE,
};
use reqwest::{Method, StatusCode, Url};

use super::answer::Answer;
use super::auth::Scope;
use super::client::{self, Ask, Streamed, Target};
use super::content::Content;
use super::destination::{Destination, Parcel, check_digest};
use super::failure::{Failure, Remedy};
use super::progress::Phase;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Blob;

const LEAST_CHUNK: HeaderName = HeaderName::from_static("oci-chunk-min-length");
/// What is tried where a blob is too long for whatever is on the way, which allows 100 MB or 1 MiB often.
const CHUNK: u64 = 32 << 20;
const SMALLEST_CHUNK: u64 = 512 << 10;

/// A blob on its way.
pub(super) struct Upload<'a> {
    to: &'a Destination,
    content: Content,
    holders: Vec<String>,
}

/// A place that the registry has made for the blob.
#[derive(Debug)]
struct Session {
    url: Url,
    /// How many bytes it has.
    at: u64,
    /// What a chunk must have at least.
    least: u64,
    resumed: bool,
}

impl<'a> Upload<'a> {
    pub(super) fn new(to: &'a Destination, parcel: Parcel) -> Self {
        let Parcel { blob, origin, holders } = parcel;
        let (reporter, state) = (to.reporter.clone(), Arc::new(Mutex::default()));
        Self { to, content: Content { origin, blob, reporter, state }, holders }
    }

    /// Sees to it that the registry has the blob.
    pub(super) async fn run(self) -> Result<()> {
        let size = self.content.blob.size;
        if self.is_there().await? {
            self.tell(Phase::Present, size);
            return Ok(());
        }
        let Some(session) = self.mount().await else {
            self.tell(Phase::Mounted, size);
            return Ok(());
        };
        self.send(session).await?;
        self.tell(Phase::Complete, size);
        Ok(())
    }

    fn tell(&self, phase: Phase, bytes: u64) {
        let Blob { digest, size } = self.content.blob;
        self.to.reporter.tell(digest, phase, bytes, size);
    }

    async fn is_there(&self) -> Result<bool> {
        let digest = self.content.blob.digest;
        let path = format!("/v2/{}/blobs/{digest}", self.to.repository);
        let scope = self.to.scope();
        let ask = Ask::new(Method::HEAD, &path, &scope);
        match self.to.client.send(&self.to.endpoint, &ask).await {
            Ok(_) => Ok(true),
            Err(err) if err.kind() == ErrorKind::NotFound => Ok(false),
            Err(err) => Err(err),
        }
    }

    /// Lets the registry take the blob from another repository. `None` if it has done so; else a place for it, if there is
    /// one by the way.
    async fn mount(&self) -> Option<Option<Session>> {
        let digest = self.content.blob.digest;
        let mut place: Option<Session> = None;
        for holder in &self.holders {
            if self.to.is_closed(holder) {
                continue;
            }
            let path =
                format!("/v2/{}/blobs/uploads/?mount={digest}&from={holder}", self.to.repository);
            let scope = self.to.scope().and(&Scope::pull(holder));
            let mut ask = Ask::new(Method::POST, &path, &scope);
            ask.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
            // Whatever goes wrong here, the blob can be sent as well.
            match self.to.client.send(&self.to.endpoint, &ask).await {
                Ok(answer) if answer.status() == StatusCode::CREATED => {
                    if let Some(place) = place {
                        self.cancel(&place).await;
                    }
                    return None;
                }
                Ok(answer) => {
                    if let Some(before) = place.take() {
                        self.cancel(&before).await;
                    }
                    place = Session::of(&answer).ok();
                }
                Err(err) if err.kind() == ErrorKind::PermissionDenied => self.to.close(holder),
                Err(_) => {}
            }
        }
        Some(place)
    }

    /// Gives a place up that is not needed. If that fails, the registry does so later.
    async fn cancel(&self, session: &Session) {
        let scope = self.to.scope();
        let mut ask = Ask::new(Method::DELETE, "", &scope);
        ask.target = Target::Address(&session.url);
        let _ = self.to.client.once(&self.to.endpoint, &ask).await;
    }

    async fn send(&self, mut session: Option<Session>) -> Result<()> {
        let (mut chunk, mut attempt, mut reached) = (self.to.chunk, 0, 0);
        loop {
            let failure = match self.go_on(&mut session, chunk).await {
                Ok(()) => return Ok(()),
                Err(failure) => failure,
            };
            if let Some(err) = self.content.failure() {
                return Err(err);
            }
            let (failure, lost) = match failure {
                Broken::TooLong(failure) => {
                    let smaller = chunk.map_or(CHUNK, |chunk| chunk / 8);
                    if smaller < SMALLEST_CHUNK {
                        return Err(failure.error);
                    }
                    // It is not the registry that must be waited for.
                    (chunk, session) = (Some(smaller), None);
                    continue;
                }
                Broken::Lost(failure) => (failure, true),
                Broken::Other(failure) => (failure, false),
            };
            attempt += 1;
            self.tell(Phase::Retrying, session.as_ref().map_or(0, |it| it.at));
            self.to.client.pause(attempt, failure).await?;
            session = match session {
                Some(session) if !lost => self.find(&session).await,
                _ => None,
            };
            if let Some(session) = session.as_ref().filter(|it| it.at > reached) {
                (reached, attempt) = (session.at, 0);
            }
        }
    }

    /// Sends all that the registry does not have yet.
    async fn go_on(&self, session: &mut Option<Session>, chunk: Option<u64>) -> Result<(), Broken> {
        let size = self.content.blob.size;
        let session = match session {
            Some(session) => session,
            none => none.insert(self.begin().await?),
        };
        self.tell(Phase::Transferring, session.at);
        if let Some(chunk) = chunk {
            let chunk = chunk.max(session.least).max(1);
            while session.at < size {
                let length = chunk.min(size - session.at);
                let url = session.url.clone();
                let answer = self.put(session, Method::PATCH, &url, length).await?;
                let next = Session::of(&answer)?;
                let reached = session.at + length;
                let said = answer.header(RANGE).and_then(parse_range);
                if said.is_some_and(|said| said != reached) {
                    let message = format!("it was sent {reached} bytes, and says otherwise");
                    return Err(Broken::Lost(Failure::again(malformed(message))));
                }
                *session = Session { at: reached, least: session.least, ..next };
            }
        }
        let mut url = session.url.clone();
        url.query_pairs_mut().append_pair("digest", &self.content.blob.digest.to_string());
        let answer = self.put(session, Method::PUT, &url, size - session.at).await?;
        Ok(check_digest(&answer, self.content.blob.digest)?)
    }

    async fn begin(&self) -> Result<Session, Failure> {
        let path = format!("/v2/{}/blobs/uploads/", self.to.repository);
        let scope = self.to.scope();
        let mut ask = Ask::new(Method::POST, &path, &scope);
        ask.headers.insert(CONTENT_LENGTH, HeaderValue::from(0));
        match self.to.client.once(&self.to.endpoint, &ask).await {
            Ok(answer) => Ok(Session::of(&answer)?),
            // It could be looked at.
            Err(Failure { error, remedy }) if error.kind() == ErrorKind::PermissionDenied => {
                let hint = "whoever is logged in may not push to this repository: log in (Registry::login, or `docker login`) as somebody who may";
                Err(Failure { error: error.with_hint(hint), remedy })
            }
            Err(failure) => Err(failure),
        }
    }

    /// Sends the next bytes.
    async fn put(
        &self,
        session: &Session,
        method: Method,
        url: &Url,
        length: u64,
    ) -> Result<Answer, Broken> {
        let (at, scope) = (session.at, self.to.scope());
        let make = || -> Result<Streamed> { self.content.section(at, length) };
        let mut ask = Ask::new(method.clone(), "", &scope);
        ask.target = Target::Address(url);
        ask.body = client::Content::Made(&make);
        ask.headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"));
        ask.headers.insert(CONTENT_LENGTH, HeaderValue::from(length));
        if length > 0 && (method == Method::PATCH || at > 0) {
            let range = HeaderValue::try_from(format!("{at}-{}", at + length - 1));
            ask.headers.insert(CONTENT_RANGE, range.map_err(|_| malformed("it has no range"))?);
        }
        let endpoint = &self.to.endpoint;
        let attempt = || format!("send {length} bytes to {}", endpoint.name);
        let answer = self.to.client.logged_in(endpoint, &ask).await;
        let answer = answer.map_err(|failure| failure.context(attempt))?;
        let status = answer.status();
        if status.is_success() {
            return Ok(answer);
        }
        let failure = answer.refusal().await.context(attempt);
        let lost = matches!(status, StatusCode::NOT_FOUND | StatusCode::RANGE_NOT_SATISFIABLE)
            || (session.resumed && status.is_client_error() && failure.remedy == Remedy::None);
        match status {
            StatusCode::PAYLOAD_TOO_LARGE => Err(Broken::TooLong(failure)),
            _ if lost => Err(Broken::Lost(Failure { remedy: Remedy::Again(None), ..failure })),
            _ => Err(Broken::Other(failure)),
        }
    }

    /// Asks how far the registry has got. `None` if it does not know: then all begins anew.
    async fn find(&self, session: &Session) -> Option<Session> {
        let scope = self.to.scope();
        let mut ask = Ask::new(Method::GET, "", &scope);
        ask.target = Target::Address(&session.url);
        let answer = self.to.client.once(&self.to.endpoint, &ask).await.ok()?;
        let at = answer.header(RANGE).and_then(parse_range)?;
        if at > self.content.blob.size {
            return None;
        }
        let next = Session::of(&answer);
        let url = next.map_or_else(|_| session.url.clone(), |next| next.url);
        Some(Session { url, at, least: session.least, resumed: true })
    }
}

/// Why not all was sent.
enum Broken {
    /// It is too long to be sent in one.
    TooLong(Failure),
    /// The place is there no more.
    Lost(Failure),
    Other(Failure),
}

impl From<Failure> for Broken {
    fn from(failure: Failure) -> Self {
        Self::Other(failure)
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Other(error.into())
    }
}

impl Session {
    fn of(answer: &Answer) -> Result<Self> {
        let attempt = || "begin an upload";
        let location = answer.header(LOCATION);
        let location = location.ok_or_else(|| malformed("it does not say where to send it"));
        let url = answer.url().join(location.context(attempt)?);
        let url = url.map_err(|err| malformed(format!("it wants it at no address: {err}")));
        let least = answer.header(LEAST_CHUNK).and_then(|it| it.parse().ok()).unwrap_or(0);
        Ok(Self { url: url.context(attempt)?, at: 0, least, resumed: false })
    }
}

/// `0-9` are ten bytes. `0-0` is what many say who have none.
fn parse_range(range: &str) -> Option<u64> {
    let (first, last) = range.trim_start_matches("bytes=").split_once('-')?;
    match (first.trim().parse::<u64>().ok()?, last.trim().parse::<u64>().ok()?) {
        (0, 0) => Some(0),
        (0, last) => last.checked_add(1),
        _ => None,
    }
}

fn malformed(why: impl Into<std::borrow::Cow<'static, str>>) -> Error {
    Error::new(ErrorKind::Malformed, why)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_say_how_many_bytes_there_are() {
        for (range, bytes) in [
            ("0-0", Some(0)),
            ("0-1", Some(2)),
            ("bytes=0-99", Some(100)),
            ("1-99", None),
            ("0-", None),
            ("", None),
            ("0--1", None),
            ("0-18446744073709551615", None),
        ] {
            assert_eq!(parse_range(range), bytes, "{range}");
        }
    }
}
