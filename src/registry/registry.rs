//! The client of registries.

use std::fmt;
use std::io::Write;
use std::ops::ControlFlow;
use std::sync::{Arc, OnceLock};

use super::artifact::Artifact;
use super::builder::Builder;
use super::client::Client;
use super::content::{self, Remote};
use super::credentials::{Credentials, Kept};
use super::endpoint::registry_host;
use super::listing;
use super::login;
use super::operation::Operation;
use super::pull::Pull;
use super::push::{Push, Pushed};
use super::referrers;
use super::remote_manifest::RemoteManifest;
use super::runtime::Runtime;
use super::search::Search;
use super::transfer::Transfer;
use crate::error::{Context, Result};
use crate::image::spec::Descriptor;
use crate::image::{Blob, Reference, Store};

/// A client of any registry that an image's name leads to.
///
/// It remembers logins and keeps connections open, so one for the whole program is best. Clones are the same client.
/// See [the module](super) for what it does to the process and whom it trusts.
#[derive(Clone)]
pub struct Registry(Arc<Inner>);

struct Inner {
    client: Arc<Client>,
    runtime: OnceLock<Runtime>,
}

impl Registry {
    /// A client without credentials.
    ///
    /// # Errors
    ///
    /// None so far.
    pub fn new() -> Result<Self> {
        Self::builder().build()
    }

    /// A client that is logged in wherever `docker login` or [`login`](Self::login) was; see [`Builder::docker_config`].
    ///
    /// # Errors
    ///
    /// None so far: what is wrong with the configuration shows where a registry asks for a login.
    pub fn from_docker_config() -> Result<Self> {
        Self::builder().docker_config().build()
    }

    /// Begins a client with other settings.
    pub fn builder() -> Builder {
        Builder::default()
    }

    pub(super) fn new_with(client: Client) -> Self {
        Self(Arc::new(Inner { client: Arc::new(client), runtime: OnceLock::new() }))
    }

    pub(super) fn client(&self) -> &Arc<Client> {
        &self.0.client
    }

    /// The threads, started by whoever needs them first.
    pub(super) fn runtime(&self) -> Result<&Runtime> {
        if let Some(runtime) = self.0.runtime.get() {
            return Ok(runtime);
        }
        let started = Runtime::start()?;
        Ok(self.0.runtime.get_or_init(|| started))
    }

    /// Fetches the image `name` into `store`, unless it is there already: see [`Pull`].
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// use coracle::image::Store;
    /// use coracle::namespaces::Command;
    /// use coracle::registry::Registry;
    ///
    /// let store = Store::open("images/")?;
    /// let image = Registry::new()?.pull("debian:12", &store).blocking()?;
    /// Command::new("/bin/sh").rootfs(&image.rootfs()?.ephemeral()?).status()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn pull(&self, name: impl AsRef<str>, store: &Store) -> Pull {
        Pull::new(self, name.as_ref(), store)
    }

    /// Sends the image `name` of `store` to a registry, where it is called `to`: see [`Push`].
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// use coracle::image::Store;
    /// use coracle::registry::Registry;
    ///
    /// let store = Store::open("images/")?;
    /// let registry = Registry::from_docker_config()?;
    /// let pushed = registry.push(&store, "app:1", "registry.example/team/app:1").blocking()?;
    /// println!("{}@{}", pushed.reference, pushed.digest);
    /// # Ok(())
    /// # }
    /// ```
    pub fn push(&self, store: &Store, name: impl AsRef<str>, to: impl AsRef<str>) -> Push {
        Push::new(self, store, name.as_ref(), to.as_ref())
    }

    /// Copies what `from` means from one registry to another, or to another name in the same, without storing it: see
    /// [`Transfer`].
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// let registry = coracle::registry::Registry::from_docker_config()?;
    /// registry.copy("debian:12", "registry.example/base/debian:12").blocking()?;
    /// # Ok(())
    /// # }
    /// ```
    pub fn copy(&self, from: impl AsRef<str>, to: impl AsRef<str>) -> Transfer {
        Transfer::new(self, from.as_ref(), to.as_ref())
    }

    /// Sends something else than an image to a registry, where it is called `to`.
    ///
    /// # Errors
    ///
    /// Those of [`Push`]; `NotFound` too if one of its files is not there.
    pub fn push_artifact(&self, to: impl AsRef<str>, artifact: Artifact) -> Operation<Pushed> {
        let (client, to) = (Arc::clone(self.client()), to.as_ref().to_owned());
        Operation::new(self, async move {
            artifact.push(&client, &to).await.context(|| format!("push an artifact to {to}"))
        })
    }

    /// Attaches something to what `name` means, a signature or bill of materials: it lies in the same repository, has no
    /// tag, and [`referrers`](Self::referrers) lists it.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// use coracle::registry::{Artifact, Registry};
    ///
    /// let registry = Registry::from_docker_config()?;
    /// let bill = Artifact::new("application/spdx+json").file("application/spdx+json", "app.spdx.json");
    /// registry.attach("registry.example/team/app:1", bill).blocking()?;
    /// for attached in registry.referrers("registry.example/team/app:1").blocking()? {
    ///     println!("{:?} {}", attached.artifact_type(), attached.digest());
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// A registry without the referrers API has the list under a tag, `sha256-` and the digest's digits, which is kept here.
    /// Where another program attaches to the image at the same moment and takes this entry out, it is put back; one that is
    /// slow may still take it out later.
    ///
    /// # Errors
    ///
    /// As of [`push_artifact`](Self::push_artifact); `NotFound` too if there is nothing of that name; `Busy` if others take
    /// it out of the list again and again.
    pub fn attach(&self, name: impl AsRef<str>, artifact: Artifact) -> Operation<Pushed> {
        let (client, name) = (Arc::clone(self.client()), name.as_ref().to_owned());
        Operation::new(self, async move {
            artifact.attach(&client, &name).await.context(|| format!("attach to {name}"))
        })
    }

    /// Lists what is attached to what `name` means, of any [type](Descriptor::artifact_type). A descriptor's digest is how
    /// [`manifest`](Self::manifest) finds it in the same repository.
    ///
    /// # Errors
    ///
    /// Those of [`Pull`].
    pub fn referrers(&self, name: impl AsRef<str>) -> Operation<Vec<Descriptor>> {
        let (client, name) = (Arc::clone(self.client()), name.as_ref().to_owned());
        Operation::new(self, async move {
            let found = referrers::find(&client, &name).await;
            found.context(|| format!("list what refers to {name}"))
        })
    }

    /// Writes a blob that a manifest in the repository of `name` names, such as a layer of an artifact, and checks it on the
    /// way: what is written is all of the blob and right, or there is an error.
    ///
    /// # Errors
    ///
    /// Those of [`Pull`].
    pub fn fetch_blob(
        &self,
        name: impl AsRef<str>,
        blob: &Descriptor,
        to: impl Write + Send + 'static,
    ) -> Operation<()> {
        let (client, name) = (Arc::clone(self.client()), name.as_ref().to_owned());
        let (digest, blob) = (blob.digest().to_string(), Blob::try_from(blob));
        Operation::new(self, async move {
            let attempt = || format!("fetch the blob {digest} of {name}");
            let reference = name.parse::<Reference>().context(attempt)?;
            let remote = Remote::new(&client, &reference);
            content::fetch(remote, blob.context(attempt)?, to).await.context(attempt)
        })
    }

    /// Fetches the manifest or index that `name` means, whatever it describes, and nothing that it names.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// let debian = coracle::registry::Registry::new()?.manifest("debian:12").blocking()?;
    /// println!("{} for {:?}", debian.digest(), debian.platforms());
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// Those of [`Pull`].
    pub fn manifest(&self, name: impl AsRef<str>) -> Operation<RemoteManifest> {
        let (client, name) = (Arc::clone(self.client()), name.as_ref().to_owned());
        Operation::new(self, async move {
            let found = RemoteManifest::fetch(&client, &name).await;
            found.context(|| format!("fetch the manifest of {name}"))
        })
    }

    /// Logs in to a registry: shows it the credentials, and if it takes them keeps them for this client and its clones, in place
    /// of others. With [`Builder::docker_config`] they are kept where Docker's tools keep theirs, and found by those and
    /// by later clients: in `config.json`, or by the credential helper that it names for this registry. Without, they are kept in
    /// memory only.
    ///
    /// The registry is named by its host, and its port if it has one; `docker.io` is Docker Hub. If its token
    /// server gives an identity token for the password, that is kept in the password's place. One that asks nobody to log in
    /// is not shown anything, and takes all.
    ///
    /// # Errors
    ///
    /// `PermissionDenied` if it does not take them; those of [`Pull`] if it cannot be asked. `Malformed` if `config.json`
    /// cannot be read, which is then left as it is; `Unavailable` or `TimedOut` if the helper fails.
    ///
    /// ```no_run
    /// use coracle::registry::{Credentials, Registry};
    ///
    /// let registry = Registry::from_docker_config()?;
    /// let kept = registry.login("registry.example.com", Credentials::password("anna", "secret")).blocking()?;
    /// println!("kept in {kept:?}");
    /// # Ok::<(), coracle::Error>(())
    /// ```
    pub fn login(&self, host: impl Into<String>, credentials: Credentials) -> Operation<Kept> {
        Operation::new(self, login::login(Arc::clone(self.client()), host.into(), credentials))
    }

    /// [`login`](Self::login) with the user's name and password that there are for the registry already, given or kept. `None`
    /// if there are none.
    ///
    /// # Errors
    ///
    /// As of [`login`](Self::login). What is kept stays, even if it is not taken any more.
    pub fn login_again(&self, host: impl Into<String>) -> Operation<Option<Kept>> {
        Operation::new(self, login::login_again(Arc::clone(self.client()), host.into()))
    }

    /// Logs out of a registry: forgets the credentials that there are for it in this client and, with
    /// [`Builder::docker_config`], in `config.json` and its credential helper. Says whether there were any. The registry is
    /// not asked.
    ///
    /// # Errors
    ///
    /// `Malformed` if `config.json` cannot be read; `Unavailable` or `TimedOut` if the helper fails.
    pub fn logout(&self, host: impl Into<String>) -> Operation<bool> {
        Operation::new(self, login::logout(Arc::clone(self.client()), host.into()))
    }

    /// Lists the tags of a repository, in the order in which its registry has them. A tag in the name does not count.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// for tag in coracle::registry::Registry::new()?.tags("debian").blocking()? {
    ///     println!("debian:{tag}");
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `NotFound` if there is no such repository; `SafetyViolation` if the list goes on at another host; `Malformed` if it
    /// has no end, or holds what is no tag; and those of [`Pull`].
    pub fn tags(&self, repository: impl Into<String>) -> Operation<Vec<String>> {
        let (client, repository) = (Arc::clone(self.client()), repository.into());
        Operation::new(self, async move {
            let tags = listing::tags(&client, &repository).await;
            tags.context(|| format!("list the tags of {repository}"))
        })
    }

    /// Lists the repositories of a registry, as far as this user may see them. Many registries list theirs to nobody;
    /// Docker Hub is one of them.
    ///
    /// # Errors
    ///
    /// `NotFound` or `PermissionDenied` if it does not list them; and those of [`tags`](Self::tags).
    pub fn repositories(&self, host: impl Into<String>) -> Operation<Vec<String>> {
        let (client, host) = (Arc::clone(self.client()), host.into());
        Operation::new(self, async move {
            let mut names = Vec::new();
            let listed = async {
                let host = registry_host(&host)?;
                let take = |name| {
                    names.push(name);
                    ControlFlow::Continue(())
                };
                listing::each_repository(&client, &host, take).await
            };
            listed.await.context(|| format!("list the repositories of {host}"))?;
            Ok(names)
        })
    }

    /// Looks for images: on Docker Hub, or in the registry that the term begins with, `registry.example/term`. There, if it
    /// cannot search, among the names of its repositories.
    ///
    /// ```no_run
    /// # fn main() -> coracle::Result<()> {
    /// for found in coracle::registry::Registry::new()?.search("debian").stars(100).blocking()? {
    ///     println!("{} {}", found.stars, found.name);
    /// }
    /// # Ok(())
    /// # }
    /// ```
    ///
    /// # Errors
    ///
    /// `InvalidInput` for a limit that Docker Hub does not take, or nothing to look for; and those of
    /// [`repositories`](Self::repositories).
    pub fn search(&self, term: impl AsRef<str>) -> Search {
        Search::new(self, term.as_ref())
    }
}

impl fmt::Debug for Registry {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_tuple("Registry").field(&self.0.client).finish()
    }
}
