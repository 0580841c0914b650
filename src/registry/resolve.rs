//! From a name to a manifest.

use reqwest::Method;
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};

use super::answer::web_page;
use super::auth::Scope;
use super::client::{Ask, Client};
use super::endpoint::Endpoint;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Blob, Digest, Document, MAX_DOCUMENT, Reference, media_type};

/// What an image may be described by, in one header: some registries read only the first of several.
const ACCEPTED: HeaderValue = HeaderValue::from_static(
    "application/vnd.oci.image.index.v1+json, application/vnd.docker.distribution.manifest.list.v2+json, \
     application/vnd.oci.image.manifest.v1+json, application/vnd.docker.distribution.manifest.v2+json",
);
pub(super) const CONTENT_DIGEST: HeaderName = HeaderName::from_static("docker-content-digest");
const SCHEMA_1: &str = "application/vnd.docker.distribution.manifest.v1+";

fn path(reference: &Reference, digest: Option<Digest>) -> String {
    let which = match (digest.or(reference.digest()), reference.tag()) {
        (Some(digest), _) => digest.to_string(),
        (None, tag) => tag.unwrap_or_default().to_owned(),
    };
    format!("/v2/{}/manifests/{which}", reference.repository())
}

/// The digest under which a registry has a name now, in one short request. `None` if it does not say.
pub(super) async fn digest(client: &Client, reference: &Reference) -> Result<Option<Digest>> {
    let (path, scope) = (path(reference, None), Scope::pull(reference.repository()));
    let mut ask = Ask::new(Method::HEAD, &path, &scope);
    ask.headers.insert(ACCEPT, ACCEPTED);
    let mut found = Err(nowhere());
    for source in client.sources(reference.registry()) {
        found = client.send(&source, &ask).await;
        if found.is_ok() {
            break;
        }
    }
    Ok(found.map_err(missing)?.header(CONTENT_DIGEST).and_then(|digest| digest.parse().ok()))
}

fn nowhere() -> Error {
    Error::invalid("there is nowhere to ask")
}

fn missing(err: Error) -> Error {
    match err.kind() {
        ErrorKind::NotFound => err.with_hint(
            "is the name right? Registry::tags lists what there is; some registries show a repository only to who is logged in",
        ),
        _ => err,
    }
}

/// Fetches what a name means, or the document with a digest in the same repository.
pub(super) async fn document(
    client: &Client,
    reference: &Reference,
    digest: Option<Digest>,
) -> Result<Document> {
    let mut found = Err(nowhere());
    for source in client.sources(reference.registry()) {
        found = document_at(client, &source, reference, digest).await;
        if found.is_ok() {
            break;
        }
    }
    found
}

/// [`document`], as one of several sources has it.
pub(super) async fn document_at(
    client: &Client,
    source: &Endpoint,
    reference: &Reference,
    digest: Option<Digest>,
) -> Result<Document> {
    let (path, scope) = (path(reference, digest), Scope::pull(reference.repository()));
    let mut ask = Ask::get(&path, &scope);
    ask.headers.insert(ACCEPT, ACCEPTED);
    fetch(client, source, &ask, digest.or(reference.digest())).await
}

async fn fetch(
    client: &Client,
    source: &Endpoint,
    ask: &Ask<'_>,
    expected: Option<Digest>,
) -> Result<Document> {
    let answer = client.send(source, ask).await.map_err(missing)?;
    let attempt = || format!("read the manifest that {} gives", source.name);
    if answer.is_page() {
        return Err(web_page()).context(attempt);
    }
    let given_type = answer.media_type().map(str::to_owned);
    let said = answer.header(CONTENT_DIGEST).map(str::to_owned);
    let body = answer.document(MAX_DOCUMENT).await.map_err(|failure| failure.error);
    let bytes = body.context(attempt)?;
    check(bytes, given_type.as_deref(), said.as_deref(), expected).context(attempt)
}

fn check(
    bytes: Vec<u8>,
    given_type: Option<&str>,
    said: Option<&str>,
    expected: Option<Digest>,
) -> Result<Document> {
    let blob = Blob::of(&bytes);
    // Other algorithms than ours may be named beside it.
    let said = said.and_then(|digest| digest.parse::<Digest>().ok());
    for digest in expected.into_iter().chain(said) {
        if digest != blob.digest {
            let found = blob.digest;
            let message = format!("it has the digest {found}, and should have {digest}");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
    }
    if given_type.is_some_and(|it| it.starts_with(SCHEMA_1)) {
        return Err(Error::unsupported(
            "it is a manifest of Docker's schema 1, which was given up in 2015",
        )
        .with_hint("push the image anew with any tool of today"));
    }
    let descriptor = blob.descriptor(media_type(&bytes, given_type)?);
    Ok(Document { descriptor, blob, bytes })
}
