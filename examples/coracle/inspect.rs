//! `inspect`: all that there is to know about an image.

use coracle::image::spec::Descriptor;
use coracle::image::{Image, Platform, Reference};
use serde::Serialize;
use serde_json::ser::PrettyFormatter;
use serde_json::{Map, Serializer, Value, json};

use crate::failure::{Failure, Result, TEMPLATE};
use crate::output::Output;
use crate::root::Root;
use crate::template::{self, Template};

/// Show all that there is to know about images, as a JSON array
#[derive(clap::Args)]
#[command(after_help = format!("{}\n\nExample: coracle inspect -f '{{{{index .RepoTags 0}}}} runs {{{{json .Config.Cmd}}}}' app:1", template::HELP))]
pub struct Args {
    /// Images, by name, id or digest
    #[arg(value_name = "IMAGE", required = true)]
    images: Vec<String>,
    /// How to print it, see below; 'json' prints JSON on one line
    #[arg(short, long)]
    format: Option<String>,
    /// Of an image for several platforms, this one's
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<Platform>,
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

impl Args {
    pub fn run(self, root: &Root, out: &mut Output) -> Result<()> {
        let template = match self.format.as_deref() {
            None | Some("") => None,
            Some("json") => Some("{{json .}}"),
            own => own,
        };
        let wrong = |why| Failure::with_status(TEMPLATE, why);
        let template = template.map(Template::parse).transpose().map_err(wrong)?;
        let (mut found, mut missing) = (Vec::new(), Vec::new());
        for name in &self.images {
            match root.image(name, self.platform.as_ref()) {
                Ok(image) => found.push(image),
                Err(failure) => missing.push(failure),
            }
        }
        let inspected = found.iter().map(Inspected::of).collect::<Result<Vec<_>>>()?;
        match template {
            None => out.line(&pretty(&inspected)?)?,
            Some(template) => {
                for one in &inspected {
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
}

/// With docker's four blanks.
fn pretty(value: &impl Serialize) -> Result<String> {
    let mut text = Vec::new();
    let mut json = Serializer::with_formatter(&mut text, PrettyFormatter::with_indent(b"    "));
    value.serialize(&mut json).map_err(Failure::new)?;
    String::from_utf8(text).map_err(Failure::new)
}
