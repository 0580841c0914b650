//! `login` and `logout`: who we are to a registry.

use std::io::{self, IsTerminal, Read};

use coracle::ErrorKind;
use coracle::registry::{Credentials, Kept, Registry};

use crate::failure::{Failure, Result};
use crate::output::{Output, note};
use crate::prompt;
use crate::registries::Registries;
use crate::retired::{Retired, retired};

/// Log in to a registry
///
/// The credentials are shown to it first, and kept if it takes them: where docker keeps them, in config.json in $DOCKER_CONFIG or
/// ~/.docker, or by the credential helper that is named there.
#[derive(clap::Args)]
pub struct LoginArgs {
    /// The password, which others may see in the list of processes
    #[arg(short, long)]
    password: Option<String>,
    /// Take the password from standard input
    #[arg(long)]
    password_stdin: bool,
    /// The user's name
    #[arg(short, long)]
    username: Option<String>,
    #[arg(short, long, hide = true, value_parser = retired("registries know users by their names"))]
    email: Option<Retired>,
    /// The registry's host, and its port if it has one; without it Docker Hub
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

/// More is no password.
const MAX_PASSWORD: u64 = 64 << 10;
const DOCKER_HUB: &str = "docker.io";
/// By this name docker calls Docker Hub when it comes to logins.
const DOCKER_HUB_KEY: &str = "https://index.docker.io/v1/";

impl LoginArgs {
    pub fn run(self, registries: &Registries, out: &mut Output) -> Result<()> {
        let server = self.server.as_deref().unwrap_or(DOCKER_HUB);
        if self.password.is_some() {
            note("WARNING! Using --password via the CLI is insecure. Use --password-stdin.");
            if self.password_stdin {
                return Err(Failure::new("--password and --password-stdin are mutually exclusive"));
            }
        }
        if self.password_stdin && self.username.is_none() {
            return Err(Failure::new("Must provide --username with --password-stdin"));
        }
        let registry = registries.client(server)?;
        if self.username.is_none()
            && self.password.is_none()
            && let Some(kept) = again(&registry, server, out)?
        {
            return succeeded(&kept, out);
        }
        let given = if self.password_stdin { Some(from_stdin()?) } else { self.password.clone() };
        if (given.is_none() || self.username.is_none()) && !io::stdin().is_terminal() {
            return Err(Failure::new("cannot perform an interactive login from a non TTY device")
                .with_hint("give --username and --password-stdin"));
        }
        let user = self.username.clone().map_or_else(|| prompt::line("Username: "), Ok)?;
        let password = given.map_or_else(|| prompt::secret("Password: "), Ok)?;
        if user.is_empty() || password.is_empty() {
            let what = if user.is_empty() { "username" } else { "password" };
            return Err(Failure::new(format!("{what} is empty")));
        }
        let kept = registry.login(server, Credentials::password(user, password)).blocking()?;
        succeeded(&kept, out)
    }
}

/// Tries the credentials that are kept. Others are asked for if these are not taken.
fn again(registry: &Registry, server: &str, out: &mut Output) -> Result<Option<Kept>> {
    let tried = registry.login_again(server).blocking();
    if let Ok(None) = tried {
        return Ok(None);
    }
    out.line("Authenticating with existing credentials...")?;
    match tried {
        Ok(kept) => return Ok(kept),
        Err(err) if err.kind() == ErrorKind::PermissionDenied => {
            note("Stored credentials invalid or expired");
        }
        Err(err) => note(&format!("Login did not succeed, error: {err:#}")),
    }
    Ok(None)
}

fn succeeded(kept: &Kept, out: &mut Output) -> Result<()> {
    if let Kept::File(path) = kept {
        let path = path.display();
        note(&format!("WARNING! Your credentials are stored unencrypted in {path}."));
        note("A credential helper, named there as credsStore, keeps them better.");
    }
    out.line("Login Succeeded")
}

fn from_stdin() -> Result<String> {
    let mut password = String::new();
    let read = io::stdin().lock().take(MAX_PASSWORD).read_to_string(&mut password);
    read.map_err(|err| Failure::new(format!("read the password: {err}")))?;
    Ok(password.trim_end_matches(['\n', '\r']).to_owned())
}

/// Log out of a registry
///
/// Forgets what `login`, here or docker's, has kept for it.
#[derive(clap::Args)]
pub struct LogoutArgs {
    /// The registry's host, and its port if it has one; without it Docker Hub
    #[arg(value_name = "SERVER")]
    server: Option<String>,
}

impl LogoutArgs {
    pub fn run(self, registries: &Registries, out: &mut Output) -> Result<()> {
        let server = self.server.as_deref().unwrap_or(DOCKER_HUB);
        let name = self.server.as_deref().unwrap_or(DOCKER_HUB_KEY);
        out.line(&match registries.client(server)?.logout(server).blocking()? {
            true => format!("Removing login credentials for {name}"),
            false => format!("Not logged in to {name}"),
        })
    }
}
