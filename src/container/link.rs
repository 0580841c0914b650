//! Links: what a container is told of another by the environment, as Docker's legacy links do.

use std::sync::Arc;

use super::config::Link;
use super::home::Home;
use super::id::check_name;
use crate::error::{Context, Result};

/// What the environment of the container `name` says of those that it is linked to.
#[derive(Debug)]
pub(super) struct Links(Vec<(String, Vec<String>)>);

impl Links {
    /// Looks at the linked containers as they are now.
    pub(super) fn find(home: &Arc<Home>, links: &[Link]) -> Result<Self> {
        let find = |link: &Link| {
            let attempt = || format!("link to the container {}", link.container);
            check_name(&link.alias).context(attempt)?;
            let linked = home.find(&link.container).context(attempt)?;
            let image = linked.image().context(attempt)?;
            let of_image = image.config().spec().config().as_ref().and_then(|it| it.env().clone());
            let mut env = of_image.unwrap_or_default();
            env.extend(linked.config().context(attempt)?.env);
            Ok((link.alias.clone(), env))
        };
        links.iter().map(find).collect::<Result<_>>().map(Self)
    }

    /// `DB_NAME=/web/db`, and `DB_ENV_X=y` for each variable `X=y` there.
    pub(super) fn environment(&self, name: &str) -> Vec<String> {
        let mut variables = Vec::new();
        for (alias, env) in &self.0 {
            let prefix = alias.to_uppercase().replace('-', "_");
            variables.push(format!("{prefix}_NAME=/{name}/{alias}"));
            // These two say nothing of what it is there for.
            let told = env.iter().filter(|it| !it.starts_with("HOME=") && !it.starts_with("PATH="));
            let told = told.filter(|variable| variable.contains('='));
            variables.extend(told.map(|variable| format!("{prefix}_ENV_{variable}")));
        }
        variables
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn variables_are_named_for_the_alias() {
        let env = ["PATH=/bin", "A=b=c", "HOME=/root", "BARE", "A=d"].map(str::to_owned);
        let links = Links(vec![("my-db".to_owned(), env.to_vec())]);
        assert_eq!(
            links.environment("web"),
            ["MY_DB_NAME=/web/my-db", "MY_DB_ENV_A=b=c", "MY_DB_ENV_A=d"]
        );
    }
}
