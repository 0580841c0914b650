//! `inspect`: all that there is to know about images and containers.

use coracle::image::spec::Descriptor;
use coracle::image::{Image, Platform, Reference};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Serializer, Value, json};

use crate::containers;
use crate::failure::{Failure, Result, TEMPLATE};
use crate::output::Output;
use crate::root::Root;
use crate::template::{self, Template};

/// Show all that there is to know about containers and images, as a JSON array
#[derive(clap::Args)]
#[command(after_help = format!("{}\n\nExample: coracle inspect -f '{{{{index .RepoTags 0}}}} runs {{{{json .Config.Cmd}}}}' app:1", template::HELP))]
pub struct Args {
    /// Containers by name or id, images by name, id or digest
    #[arg(value_name = "NAME", required = true)]
    names: Vec<String>,
    /// How to print it, see below; 'json' prints JSON on one line
    #[arg(short, long)]
    format: Option<String>,
    /// Of an image for several platforms, this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
    /// Which it is, if a container and an image have the same name
    #[arg(long = "type", value_enum, value_name = "TYPE")]
    kind: Option<Kind>,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Inspected<'a> {
    id: String,
    repo_tags: Vec<String>,
    repo_digests: Vec<String>,
    comment: String,
    created: Option<&'a Value>,
    author: &'a str,
    config: Map<String, Value>,
    architecture: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    variant: Option<&'a Value>,
    os: Option<&'a Value>,
    #[serde(skip_serializing_if = "Option::is_none")]
    os_version: Option<&'a Value>,
    size: u64,
    #[serde(rename = "RootFS")]
    rootfs: RootFs,
    descriptor: &'a Descriptor,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct RootFs {
    r#type: &'static str,
    layers: Vec<String>,
}

impl<'a> Inspected<'a> {
    fn of(image: &'a Image) -> Result<Self> {
        let raw = |name: &str| image.config().raw().get(name);
        let names = image.references().iter();
        let mut repositories: Vec<_> = names.clone().map(Reference::familiar_name).collect();
        repositories.dedup();
        let digest = |name: String| format!("{name}@{}", image.digest());
        let layers = image.diff_ids().iter().map(|id| id.0.to_string()).collect();
        Ok(Self {
            id: image.id().to_string(),
            repo_tags: names.filter(|it| it.tag().is_some()).map(Reference::familiar).collect(),
            repo_digests: repositories.into_iter().map(digest).collect(),
            comment: image.history()?.into_iter().next().map(|it| it.comment).unwrap_or_default(),
            created: raw("created"),
            author: raw("author").and_then(Value::as_str).unwrap_or_default(),
            config: config(raw("config")),
            architecture: raw("architecture"),
            variant: raw("variant"),
            os: raw("os"),
            os_version: raw("os.version"),
            size: image.size(),
            rootfs: RootFs { r#type: "layers", layers },
            descriptor: image.descriptor(),
        })
    }
}

/// With what an image need not say, so that a template may ask for it.
fn config(raw: Option<&Value>) -> Map<String, Value> {
    let mut config = raw.and_then(Value::as_object).cloned().unwrap_or_default();
    for name in ["User", "WorkingDir", "StopSignal"] {
        config.entry(name).or_insert_with(|| json!(""));
    }
    for name in ["Cmd", "Entrypoint", "Env", "ExposedPorts", "Labels", "Volumes"] {
        config.entry(name).or_insert(Value::Null);
    }
    config
}

enum Found {
    Image(Image),
    Container(Value),
}

#[derive(Serialize)]
#[serde(untagged)]
enum Told<'a> {
    Image(Box<Inspected<'a>>),
    Container(&'a Value),
}

#[derive(Clone, Copy, PartialEq, clap::ValueEnum)]
enum Kind {
    Container,
    Image,
}

impl Args {
    /// `image inspect`.
    pub fn images(mut self, root: &Root, out: &mut Output) -> Result<()> {
        self.kind = Some(Kind::Image);
        self.run(root, out)
    }

    /// `container inspect`.
    pub fn containers(mut self, root: &Root, out: &mut Output) -> Result<()> {
        self.kind = Some(Kind::Container);
        self.run(root, out)
    }

    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in &self.names {
            match self.find(root, name) {
                Ok(one) => found.push(one),
                Err(failure) => missing.push(failure),
            }
        }
        let told = found.iter().map(|found| match found {
            Found::Image(image) => Ok(Told::Image(Box::new(Inspected::of(image)?))),
            Found::Container(value) => Ok(Told::Container(value)),
        });
        print(self.format.as_deref(), &told.collect::<Result<Vec<_>>>()?, &missing, out)
    }

    /// A container before an image.
    fn find(&self, root: &Root, name: &str) -> Result<Found> {
        let container = || -> Result<Found> {
            let engine = root.engine()?;
            let container = engine.find(name)?;
            Ok(Found::Container(containers::describe::container(&engine, &container)?))
        };
        let image = || Ok(Found::Image(root.image(name, self.platform.as_ref())?));
        match self.kind {
            Some(Kind::Container) => container(),
            Some(Kind::Image) => image(),
            None => container().or_else(|failure| match failure.is_not_found() {
                true => image(),
                // It may be readable only, as images are then.
                false => image().map_err(|_| failure),
            }),
        }
    }
}

/// Prints what was found as `--format` has it, and then what is missing.
pub fn print(
    format: Option<&str>,
    found: &[impl Serialize],
    missing: &[Failure],
    out: &mut Output,
) -> Result<()> {
    let template = match format {
        None | Some("") => None,
        Some("json") => Some("{{json .}}"),
        own => own,
    };
    let wrong = |why| Failure::with_status(TEMPLATE, why);
    match template.map(Template::parse).transpose().map_err(wrong)? {
        None => out.line(&pretty(&found)?)?,
        Some(template) => {
            for one in found {
                let value = serde_json::to_value(one).map_err(Failure::new)?;
                let line = template.render(&value);
                out.line(&line.map_err(|why| Failure::new(format!("template: {why}")))?)?;
            }
        }
    }
    out.flush()?;
    missing.iter().for_each(Failure::print);
    if missing.is_empty() { Ok(()) } else { Err(Failure::told()) }
}

/// With docker's four blanks.
fn pretty(value: &impl Serialize) -> Result<String> {
    let mut text = Vec::new();
    let mut json = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut json).map_err(Failure::new)?;
    String::from_utf8(text).map_err(Failure::new)
}
