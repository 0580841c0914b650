//! What refers to an image: <https://github.com/opencontainers/distribution-spec/blob/main/spec.md#listing-referrers>.

use std::time::Duration;

use oci_spec::image::{Descriptor, MediaType};
use reqwest::header::{ACCEPT, HeaderName, HeaderValue};
use serde_json::{Value, json};

use super::answer::{Answer, web_page};
use super::auth::Scope;
use super::client::{Ask, Client};
use super::destination::Destination;
use super::endpoint::Endpoint;
use super::listing::next_page;
use super::resolve;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{Blob, Digest, Document, Index, MAX_DOCUMENT, Reference};

/// With this a registry says that it keeps the list itself.
const SUBJECT: HeaderName = HeaderName::from_static("oci-subject");
const INDEX: HeaderValue = HeaderValue::from_static("application/vnd.oci.image.index.v1+json");
/// A list that goes on for longer is not read to its end.
const MOST_PAGES: usize = 100;
/// How often something is put on a list that others take it out of.
const MOST_ATTEMPTS: u32 = 5;
/// Others come to their end meanwhile; it grows.
const PAUSE: Duration = Duration::from_millis(50);

/// Whether the registry lists what it has just stored.
pub(super) fn are_kept(answer: &Answer) -> bool {
    answer.headers().contains_key(SUBJECT)
}

/// The tag of the list, in a registry that keeps none itself.
fn list_name(of: &Reference, subject: Digest) -> Result<Reference> {
    of.with_tag(&format!("sha256-{}", subject.hex()))
}

/// What refers to what a name means.
pub(super) async fn find(client: &Client, name: &str) -> Result<Vec<Descriptor>> {
    let reference: Reference = name.parse()?;
    let known = match reference.digest() {
        Some(digest) => Some(digest),
        None => resolve::digest(client, &reference).await?,
    };
    let subject = match known {
        Some(digest) => digest,
        None => resolve::document(client, &reference, None).await?.blob.digest,
    };
    let endpoint = Endpoint::registry(reference.registry());
    if let Some(listed) = ask(client, &endpoint, reference.repository(), subject).await? {
        return Ok(listed);
    }
    let name = list_name(&reference, subject)?;
    match resolve::document_at(client, &endpoint, &name, None).await {
        Ok(document) => entries(&document),
        Err(err) if err.kind() == ErrorKind::NotFound => Ok(Vec::new()),
        Err(err) => Err(err),
    }
}

fn entries(document: &Document) -> Result<Vec<Descriptor>> {
    let index = Index::parse(&document.bytes, document.descriptor.media_type());
    let index = index.context(|| "read the list of what refers to it")?;
    Ok(index.manifests.into_iter().map(|(descriptor, _)| descriptor).collect())
}

/// Asks a registry that keeps the list itself. `None` if it does not.
async fn ask(
    client: &Client,
    endpoint: &Endpoint,
    repository: &str,
    subject: Digest,
) -> Result<Option<Vec<Descriptor>>> {
    let scope = Scope::pull(repository);
    let mut page = format!("/v2/{repository}/referrers/{subject}");
    let mut listed = Vec::new();
    for number in 0..MOST_PAGES {
        let mut ask = Ask::get(&page, &scope);
        ask.headers.insert(ACCEPT, INDEX);
        let answer = match client.send(endpoint, &ask).await {
            Err(err) if number == 0 && err.kind() == ErrorKind::NotFound => return Ok(None),
            answer => answer?,
        };
        if answer.is_page() {
            return Err(web_page());
        }
        let next = next_page(answer.headers(), answer.url(), endpoint)?;
        let bytes = answer.document(MAX_DOCUMENT).await.map_err(|failure| failure.error)?;
        let descriptor = Blob::of(&bytes).descriptor(MediaType::ImageIndex);
        listed.extend(entries(&Document { blob: Blob::of(&bytes), descriptor, bytes })?);
        match next {
            Some(next) => page = next,
            None => return Ok(Some(listed)),
        }
    }
    let message = format!("the list of what refers to it has over {MOST_PAGES} pages");
    Err(Error::new(ErrorKind::Malformed, message))
}

/// Adds to the list of what refers to a subject, for a registry that keeps none itself.
///
/// Such a registry replaces the list by whichever comes last, unasked: another program that adds to the one that it has
/// read takes out what has come between. So the list is read again, until it holds what was added.
pub(super) async fn list(
    to: &Destination,
    of: &Reference,
    subject: &Descriptor,
    added: &Descriptor,
) -> Result<()> {
    let name = list_name(of, Blob::try_from(subject)?.digest)?;
    let attempt = || format!("list it under the tag {}", name.tag().unwrap_or_default());
    let _alone = to.client.lists.lock().await;
    for number in 0..=MOST_ATTEMPTS {
        if number > 1 {
            tokio::time::sleep(PAUSE * number).await;
        }
        let before = resolve::document_at(&to.client, &to.endpoint, &name, None).await;
        let before = match before {
            Ok(document) => Some(document),
            Err(err) if err.kind() == ErrorKind::NotFound => None,
            Err(err) => return Err(err).context(attempt),
        };
        let Some(after) = with(before.as_ref(), added).context(attempt)? else { return Ok(()) };
        if number < MOST_ATTEMPTS {
            to.document(&after, name.tag()).await.context(attempt)?;
        }
    }
    let message = format!("others have taken it out {MOST_ATTEMPTS} times");
    let hint = "another program changes the same list: attach it again when that is done";
    Err(Error::new(ErrorKind::Busy, message).with_hint(hint).context(attempt()))
}

/// The list with one more, and all that others have written to it. `None` if it is on it.
fn with(before: Option<&Document>, added: &Descriptor) -> Result<Option<Document>> {
    let wrong = |err: serde_json::Error| Error::new(ErrorKind::Malformed, err.to_string());
    let mut list = match before {
        Some(document) => {
            if entries(document)?.iter().any(|it| it.digest() == added.digest()) {
                return Ok(None);
            }
            serde_json::from_slice(&document.bytes).map_err(wrong)?
        }
        None => json!({ "schemaVersion": 2, "mediaType": MediaType::ImageIndex.to_string() }),
    };
    let added = serde_json::to_value(added).map_err(wrong)?;
    match &mut list["manifests"] {
        Value::Array(entries) => entries.push(added),
        none => *none = json!([added]),
    }
    let bytes = serde_json::to_vec(&list).map_err(wrong)?;
    let blob = Blob::of(&bytes);
    let media_type = before.map(|it| it.descriptor.media_type().clone());
    let descriptor = blob.descriptor(media_type.unwrap_or(MediaType::ImageIndex));
    Ok(Some(Document { descriptor, blob, bytes }))
}
