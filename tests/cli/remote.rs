//! A registry with an image in it, and the command line as it reaches it.

use std::fs;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use crate::common::images::{Layout, Packing, Skopeo, tar};
use crate::common::registry::Registry;
use crate::common::{Missing, Sandbox, setup};
use crate::{Ran, command, finish};

pub struct Scene {
    pub dir: Sandbox,
    pub server: Registry,
    /// Of `app:1`.
    pub digest: String,
    /// The short digests of its layers.
    pub layers: [String; 2],
}

/// A registry with `app:1` and `app:2`, the same image.
pub fn scene(name: &str, server: Registry) -> Result<Scene, Missing> {
    let dir = setup(name);
    let skopeo = Skopeo::new(&server)?;
    let mut layout = Layout::new(dir.join("layout"));
    let layers = [("one", &b"1"[..]), ("two", b"2")];
    let layers = layers.map(|file| layout.layer(&tar(&[file])[..], Packing::Gzip));
    let digest = layout.image("app", &layers);
    for name in ["app:1", "app:2"] {
        assert_eq!(skopeo.push(layout.path(), "app", name), digest);
    }
    let layers = layers.map(|layer| layer.descriptor["digest"].as_str().unwrap()[7..19].to_owned());
    Ok(Scene { dir, server, digest, layers })
}

/// An open one.
pub fn open(name: &str) -> Result<Scene, Missing> {
    scene(name, Registry::start()?)
}

impl Scene {
    pub fn store(&self) -> PathBuf {
        self.dir.join("images")
    }

    /// With a store and a configuration of its own, and no proxy.
    pub fn command(&self, arguments: &[&str]) -> Command {
        let mut command = command(arguments);
        command.env("CORACLE_ROOT", self.store()).env("DOCKER_CONFIG", self.dir.join("docker"));
        for name in ["http_proxy", "https_proxy", "all_proxy", "no_proxy"] {
            command.env_remove(name).env_remove(name.to_uppercase());
        }
        command
    }

    pub fn run(&self, arguments: &[&str]) -> Ran {
        finish(&mut self.command(arguments))
    }

    /// The lines of what must succeed.
    #[track_caller]
    pub fn lines(&self, arguments: &[&str]) -> Vec<String> {
        let ran = self.run(arguments);
        assert!(ran.status == 0 && ran.err.is_empty(), "{arguments:?}: {ran:?}");
        ran.out.lines().map(str::to_owned).collect()
    }

    #[track_caller]
    pub fn fails(&self, arguments: &[&str], status: i32, words: &[&str]) -> Ran {
        let ran = self.run(arguments);
        assert_eq!(ran.status, status, "{arguments:?}: {ran:?}");
        words.iter().for_each(|word| assert!(ran.err.contains(word), "{word}: {ran:?}"));
        ran
    }

    /// Runs it with this on its standard input.
    pub fn run_with(&self, arguments: &[&str], input: &str) -> Ran {
        let file = self.dir.file("stdin", input);
        finish(self.command(arguments).stdin(Stdio::from(fs::File::open(file).unwrap())))
    }
}
