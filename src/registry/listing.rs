//! Lists that come in pages: tags and repositories.

use std::collections::HashSet;
use std::ops::ControlFlow;

use reqwest::Url;
use reqwest::header::{HeaderMap, LINK};
use serde::Deserialize;

use super::auth::Scope;
use super::client::{Ask, Client};
use super::endpoint::Endpoint;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::{MAX_DOCUMENT, Reference};

/// What registries give at a time; many give less, and some refuse to be asked for more.
const PAGE: usize = 1000;
/// Longer lists are not read to their end: they have none, or nobody could hold them.
const MAX_NAMES: usize = 1_000_000;
const MAX_PAGES: usize = 2_000;
/// So many pages with nothing new on them lead nowhere.
const MAX_EMPTY: usize = 10;

#[derive(Deserialize)]
struct Page {
    #[serde(alias = "repositories")]
    tags: Option<Vec<String>>,
}

/// The tags that a repository has.
pub(super) async fn tags(client: &Client, repository: &str) -> Result<Vec<String>> {
    let reference: Reference = repository.parse()?;
    let path = format!("/v2/{}/tags/list", reference.repository());
    let scope = Scope::pull(reference.repository());
    let endpoint = Endpoint::registry(reference.registry());
    let mut tags = Vec::new();
    let read = each_name(client, &endpoint, &path, &scope, |tag| {
        reference.with_tag(&tag).map_err(|err| err.with_kind(ErrorKind::Malformed))?;
        tags.push(tag);
        Ok(ControlFlow::Continue(()))
    });
    read.await?;
    Ok(tags)
}

/// Goes through the repositories of a registry, until `take` has had enough.
pub(super) async fn each_repository(
    client: &Client,
    host: &str,
    mut take: impl FnMut(String) -> ControlFlow<()>,
) -> Result<()> {
    let endpoint = Endpoint::registry(host);
    let scope = Scope::catalog();
    let read = each_name(client, &endpoint, "/v2/_catalog", &scope, |name| {
        let reference = format!("localhost/{name}").parse::<Reference>();
        let reference = reference.map_err(|err| err.with_kind(ErrorKind::Malformed))?;
        // A tag, perhaps.
        if reference.repository() != name {
            let message = format!("{name:?} is no repository's name");
            return Err(Error::new(ErrorKind::Malformed, message));
        }
        Ok(take(name))
    });
    read.await.map_err(|err| match err.kind() {
        ErrorKind::NotFound | ErrorKind::PermissionDenied => {
            err.with_hint("many registries list their repositories to nobody, or to administrators")
        }
        _ => err,
    })
}

/// Gives `take` each name of a list, page by page, until it has had enough.
async fn each_name(
    client: &Client,
    endpoint: &Endpoint,
    path: &str,
    scope: &Scope,
    mut take: impl FnMut(String) -> Result<ControlFlow<()>>,
) -> Result<()> {
    let malformed = |why: String| Error::new(ErrorKind::Malformed, why);
    let mut next = Some(format!("{path}?n={PAGE}"));
    let mut seen = HashSet::new();
    let (mut names, mut empty) = (0, 0);
    while let Some(page) = next {
        let answer = client.send(endpoint, &Ask::get(&page, scope)).await?;
        let attempt = || format!("read the answer of {} to GET {page}", endpoint.name);
        next = next_page(answer.headers(), answer.url(), endpoint).context(attempt)?;
        let read = answer.json::<Page>(MAX_DOCUMENT).await.map_err(|failure| failure.error);
        let list = read.context(attempt)?.tags.unwrap_or_default();
        empty = if list.is_empty() { empty + 1 } else { 0 };
        names += list.len();
        for name in list {
            if take(name).context(attempt)?.is_break() {
                return Ok(());
            }
        }
        let again = next.as_ref().is_some_and(|next| !seen.insert(next.clone()));
        if again || empty > MAX_EMPTY {
            return Err(malformed("its pages lead in a circle".to_owned())).context(attempt);
        }
        if names > MAX_NAMES || seen.len() > MAX_PAGES {
            return Err(malformed(format!("it has more than {MAX_NAMES} names, or has no end")))
                .context(attempt);
        }
    }
    Ok(())
}

/// Where the next page is, if there is one: at the same host.
pub(super) fn next_page(
    headers: &HeaderMap,
    here: &Url,
    endpoint: &Endpoint,
) -> Result<Option<String>> {
    let links = headers.get_all(LINK).iter().filter_map(|value| value.to_str().ok());
    let Some(target) = links.flat_map(targets).find_map(|(target, next)| next.then_some(target))
    else {
        return Ok(None);
    };
    let url = here.join(target).map_err(|err| {
        Error::new(ErrorKind::Malformed, format!("its next page {target:?} has no address: {err}"))
    })?;
    let host = url.host_str().unwrap_or_default();
    // A redirect may have led to where this page is, but not the one after it, to which credentials go.
    if host != endpoint.host() {
        let message = format!("its next page is elsewhere, at {host:?}");
        return Err(Error::new(ErrorKind::SafetyViolation, message));
    }
    let query = url.query().map(|query| format!("?{query}")).unwrap_or_default();
    Ok(Some(format!("{}{query}", url.path())))
}

/// The targets of a header `Link`, and whether each is of what comes next: <https://www.rfc-editor.org/rfc/rfc8288>.
fn targets(header: &str) -> impl Iterator<Item = (&str, bool)> {
    let mut rest = header;
    std::iter::from_fn(move || {
        let (_, after) = rest.split_once('<')?;
        let (target, after) = after.split_once('>')?;
        let end = after.find('<').unwrap_or(after.len());
        let (parameters, left) = after.split_at(end);
        rest = left;
        let is_next = |parameter: &str| {
            let (name, value) = parameter.split_once('=').unwrap_or((parameter, ""));
            let value = value.trim().trim_end_matches(',').trim().trim_matches('"');
            let mut relations = value.split_ascii_whitespace();
            name.trim().eq_ignore_ascii_case("rel")
                && relations.any(|relation| relation.eq_ignore_ascii_case("next"))
        };
        Some((target, parameters.split(';').any(is_next)))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_next_page_is_found_among_links() {
        let here: Url = "https://registry.example/v2/_catalog?n=2".parse().unwrap();
        let endpoint = Endpoint::registry("registry.example");
        for (links, next) in [
            (&["</v2/_catalog?last=b&n=2>; rel=\"next\""][..], Some("/v2/_catalog?last=b&n=2")),
            (&["<?last=b>;rel=next"], Some("/v2/_catalog?last=b")),
            (&["</a>; rel=\"prev\", </b>; title=x; REL=\"last NEXT\""], Some("/b")),
            (&["</a>; rel=prev", "</b>; rel=next"], Some("/b")),
            (&["<http://registry.example/c?d>; rel=next"], Some("/c?d")),
            (&["</a,b;c>; rel=next"], Some("/a,b;c")),
            (&["</a>"], None),
            (&["</a>; rel=nextish"], None),
            (&["nonsense", "<", "<a; rel=next"], None),
            (&[], None),
        ] {
            let mut headers = HeaderMap::new();
            for link in links {
                headers.append(LINK, link.parse().unwrap());
            }
            let found = next_page(&headers, &here, &endpoint).unwrap();
            assert_eq!(found.as_deref(), next, "{links:?}");
        }
        for (link, kind) in [
            ("<https://evil.example/v2/_catalog>; rel=next", ErrorKind::SafetyViolation),
            ("<//evil.example/>; rel=next", ErrorKind::SafetyViolation),
            ("<https://[>; rel=next", ErrorKind::Malformed),
            ("<data:x>; rel=next", ErrorKind::SafetyViolation),
        ] {
            let mut headers = HeaderMap::new();
            headers.append(LINK, link.parse().unwrap());
            let err = next_page(&headers, &here, &endpoint).unwrap_err();
            assert_eq!(err.kind(), kind, "{link}: {err}");
        }
    }
}
