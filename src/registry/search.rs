//! Looking for images.

use std::future::IntoFuture;
use std::ops::ControlFlow;
use std::sync::Arc;

use serde::Deserialize;

use super::auth::Scope;
use super::client::{Ask, Client};
use super::endpoint::{DOCKER_HUB, Endpoint};
use super::listing::each_repository;
use super::operation::{Operation, Running};
use super::registry::Registry;
use crate::error::{Context, Error, Result};
use crate::image::{MAX_DOCUMENT, Reference};

/// Where Docker Hub is searched.
const DOCKER_HUB_INDEX: &str = "index.docker.io";
/// As docker has it.
const USUAL_LIMIT: usize = 25;
const MAX_LIMIT: usize = 100;

/// Looks for images; made by [`Registry::search`]. It begins when it is awaited or [`blocking`](Self::blocking) is called.
#[derive(Debug)]
#[must_use = "nothing is asked before it is awaited, or `blocking` is called"]
pub struct Search {
    registry: Registry,
    work: Work,
}

#[derive(Debug)]
struct Work {
    client: Arc<Client>,
    term: String,
    limit: usize,
    stars: u64,
    official: Option<bool>,
    automated: Option<bool>,
}

/// An image that [`Registry::search`] has found. What is said of it is the registry's word; it may hold control
/// characters.
#[derive(Clone, Debug, PartialEq, Eq)]
#[non_exhaustive]
pub struct SearchResult {
    /// The name by which it is pulled, without a tag.
    pub name: String,
    /// What it says that it is; empty where the registry knows nothing but names.
    pub description: String,
    /// How many users like it.
    pub stars: u64,
    /// Whether the registry's owner vouches for it.
    pub official: bool,
    /// Whether the registry has built it, as Docker Hub did once.
    pub automated: bool,
}

/// As Docker Hub and registries of the first version answer.
#[derive(Deserialize)]
struct Answer {
    results: Vec<Found>,
}

#[derive(Deserialize)]
struct Found {
    name: String,
    #[serde(default)]
    description: Option<String>,
    #[serde(default)]
    star_count: u64,
    #[serde(default)]
    is_official: bool,
    #[serde(default)]
    is_automated: bool,
}

impl Search {
    pub(super) fn new(registry: &Registry, term: &str) -> Self {
        let work = Work {
            client: Arc::clone(registry.client()),
            term: term.to_owned(),
            limit: USUAL_LIMIT,
            stars: 0,
            official: None,
            automated: None,
        };
        Self { registry: registry.clone(), work }
    }

    /// How many are asked for, from 1 to 100; 25 if it is not said. What the conditions below leave out counts.
    pub fn limit(mut self, limit: usize) -> Self {
        self.work.limit = limit;
        self
    }

    /// Only images that at least so many users like.
    pub fn stars(mut self, least: u64) -> Self {
        self.work.stars = least;
        self
    }

    /// Only official images, or only others.
    pub fn official(mut self, official: bool) -> Self {
        self.work.official = Some(official);
        self
    }

    /// Only images that the registry has built, or only others.
    pub fn automated(mut self, automated: bool) -> Self {
        self.work.automated = Some(automated);
        self
    }

    /// Looks for images and waits for the answer. On a thread of an async runtime this blocks the thread.
    ///
    /// # Errors
    ///
    /// Those of [`Registry::search`].
    pub fn blocking(self) -> Result<Vec<SearchResult>> {
        self.operation().blocking()
    }

    fn operation(self) -> Operation<Vec<SearchResult>> {
        let Self { registry, work } = self;
        Operation::new(&registry, async move {
            let found = work.run().await;
            found.context(|| format!("search for {:?}", work.term))
        })
    }
}

impl IntoFuture for Search {
    type Output = Result<Vec<SearchResult>>;
    type IntoFuture = Running<Vec<SearchResult>>;

    fn into_future(self) -> Running<Vec<SearchResult>> {
        self.operation().into_future()
    }
}

impl Work {
    async fn run(&self) -> Result<Vec<SearchResult>> {
        if !(1..=MAX_LIMIT).contains(&self.limit) {
            let limit = self.limit;
            return Err(Error::invalid(format!("{limit} is no limit from 1 to {MAX_LIMIT}")));
        }
        let (registry, term) = split(&self.term)?;
        let mut found = match registry {
            None if term.is_empty() => return Err(Error::invalid("there is nothing to look for")),
            None => self.ask(&Endpoint::registry(DOCKER_HUB_INDEX), term, true).await?,
            // Few of today's registries know how to search.
            Some(host) => match self.ask(&Endpoint::registry(host), term, false).await {
                Ok(found) => found.into_iter().map(|it| it.at(host)).collect(),
                Err(_) => self.list(host, term).await?,
            },
        };
        found.truncate(self.limit);
        found.retain(|it| {
            it.stars >= self.stars
                && self.official.is_none_or(|official| it.official == official)
                && self.automated.is_none_or(|automated| it.automated == automated)
        });
        Ok(found)
    }

    async fn ask(&self, endpoint: &Endpoint, term: &str, again: bool) -> Result<Vec<SearchResult>> {
        let mut url = endpoint.url(super::endpoint::Scheme::Https, "/v1/search")?;
        url.query_pairs_mut().append_pair("q", term).append_pair("n", &self.limit.to_string());
        let path = format!("{}?{}", url.path(), url.query().unwrap_or_default());
        let scope = Scope::none();
        let ask = Ask::get(&path, &scope);
        let answer = match again {
            true => self.client.send(endpoint, &ask).await?,
            false => self.client.once(endpoint, &ask).await.map_err(|failure| failure.error)?,
        };
        let answer = answer.json::<Answer>(MAX_DOCUMENT).await.map_err(|failure| failure.error);
        let answer = answer.context(|| format!("read what {} has found", endpoint.name))?;
        Ok(answer.results.into_iter().map(SearchResult::from).collect())
    }

    /// Looks through the names of all repositories.
    async fn list(&self, host: &str, term: &str) -> Result<Vec<SearchResult>> {
        let term = term.to_lowercase();
        let mut found = Vec::new();
        let looked = each_repository(&self.client, host, |name| {
            if name.contains(&term) {
                found.push(SearchResult::named(format!("{host}/{name}")));
            }
            match found.len() < self.limit {
                true => ControlFlow::Continue(()),
                false => ControlFlow::Break(()),
            }
        });
        looked.await?;
        Ok(found)
    }
}

/// The registry to search, if it is not Docker Hub, and for what.
fn split(term: &str) -> Result<(Option<&str>, &str)> {
    let (registry, term) = match term.split_once('/') {
        // As image names have it.
        Some((first, rest)) if first.contains(['.', ':']) || first == "localhost" => {
            format!("{first}/name").parse::<Reference>()?;
            (Some(first), rest)
        }
        _ => (None, term),
    };
    let hub = [DOCKER_HUB, DOCKER_HUB_INDEX];
    match registry.filter(|registry| !hub.contains(registry)) {
        Some(registry) => Ok((Some(registry), term)),
        // Docker Hub leaves it out of names itself.
        None => Ok((None, term.strip_prefix("library/").unwrap_or(term))),
    }
}

impl From<Found> for SearchResult {
    fn from(found: Found) -> Self {
        Self {
            name: found.name,
            description: found.description.unwrap_or_default(),
            stars: found.star_count,
            official: found.is_official,
            automated: found.is_automated,
        }
    }
}

impl SearchResult {
    fn named(name: String) -> Self {
        let description = String::new();
        Self { name, description, stars: 0, official: false, automated: false }
    }

    fn at(self, host: &str) -> Self {
        Self { name: format!("{host}/{}", self.name), ..self }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_term_may_name_its_registry() {
        for (term, registry, rest) in [
            ("debian", None, "debian"),
            ("library/debian", None, "debian"),
            ("team/app", None, "team/app"),
            ("docker.io/debian", None, "debian"),
            ("index.docker.io/library/debian", None, "debian"),
            ("localhost/app", Some("localhost"), "app"),
            ("localhost:5000/team/app", Some("localhost:5000"), "team/app"),
            ("registry.example/", Some("registry.example"), ""),
        ] {
            assert_eq!(split(term).unwrap(), (registry, rest), "{term}");
        }
        assert!(split("a b.c/d").is_err());
    }
}
