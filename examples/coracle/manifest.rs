//! `manifest inspect`: what a registry says of an image, without fetching it.

use coracle::image::Reference;
use coracle::image::spec::{Descriptor, MediaType};
use coracle::registry::{Registry, RemoteManifest};
use serde::Serialize;
use serde_json::value::RawValue;

use crate::failure::{Failure, Result};
use crate::output::Output;
use crate::registries::Registries;

/// Show the manifest of an image in a registry, or the index of one for several platforms
///
/// Nothing is stored.
#[derive(clap::Args)]
pub struct InspectArgs {
    /// Show what an index names, too, and the digest of each
    #[arg(short, long)]
    verbose: bool,
    /// The image, by its name in a registry
    #[arg(value_name = "NAME[:TAG|@DIGEST]")]
    name: String,
}

#[derive(Serialize)]
#[serde(rename_all = "PascalCase")]
struct Described<'a> {
    r#ref: String,
    descriptor: &'a Descriptor,
    #[serde(rename = "SchemaV2Manifest", skip_serializing_if = "Option::is_none")]
    docker: Option<&'a RawValue>,
    #[serde(rename = "OCIManifest", skip_serializing_if = "Option::is_none")]
    oci: Option<&'a RawValue>,
}

impl InspectArgs {
    pub fn run(self, registries: &Registries, out: &mut Output) -> Result<()> {
        let reference: Reference = self.name.parse()?;
        let registry = registries.client(reference.registry())?;
        let manifest = registry.manifest(&self.name).blocking()?;
        let text = match (self.verbose, manifest.is_index()) {
            (false, _) => text(&manifest)?.to_owned(),
            (true, false) => described(&manifest, manifest.descriptor())?,
            (true, true) => {
                let parts =
                    manifest.manifests().iter().map(|part| one(&registry, &reference, part));
                format!("[{}]", parts.collect::<Result<Vec<_>>>()?.join(","))
            }
        };
        out.line(&indented(&text))
    }
}

fn one(registry: &Registry, reference: &Reference, part: &Descriptor) -> Result<String> {
    let name = format!("{}@{}", reference.name(), part.digest());
    described(&registry.manifest(name).blocking()?, part)
}

fn described(manifest: &RemoteManifest, descriptor: &Descriptor) -> Result<String> {
    let raw: &RawValue = serde_json::from_str(text(manifest)?).map_err(Failure::new)?;
    let is_oci = matches!(manifest.descriptor().media_type(), MediaType::ImageManifest);
    let (docker, oci) = if is_oci { (None, Some(raw)) } else { (Some(raw), None) };
    let described = Described { r#ref: manifest.reference().to_string(), descriptor, docker, oci };
    serde_json::to_string(&described).map_err(Failure::new)
}

fn text(manifest: &RemoteManifest) -> Result<&str> {
    std::str::from_utf8(manifest.bytes())
        .map_err(|err| Failure::new(format!("the manifest is no text: {err}")))
}

/// JSON, laid out with tabs as docker does; all else stays as it is written.
fn indented(json: &str) -> String {
    let mut out = String::with_capacity(json.len() * 2);
    let (mut depth, mut quoted, mut escaped) = (0_usize, false, false);
    let mut characters = json.chars().filter(|c| !c.is_control() || *c == '\u{7f}').peekable();
    let line = |out: &mut String, depth: usize| {
        out.push('\n');
        out.extend(std::iter::repeat_n('\t', depth));
    };
    while let Some(c) = characters.next() {
        if quoted {
            out.push(c);
            (quoted, escaped) = (escaped || c != '"', !escaped && c == '\\');
            continue;
        }
        match c {
            ' ' => {}
            '"' => {
                quoted = true;
                out.push(c);
            }
            '{' | '[' => {
                out.push(c);
                while characters.next_if_eq(&' ').is_some() {}
                match characters.next_if(|next| matches!(next, '}' | ']')) {
                    Some(end) => out.push(end),
                    None => {
                        depth += 1;
                        line(&mut out, depth);
                    }
                }
            }
            '}' | ']' => {
                depth = depth.saturating_sub(1);
                line(&mut out, depth);
                out.push(c);
            }
            ',' => {
                out.push(c);
                line(&mut out, depth);
            }
            ':' => out.push_str(": "),
            c => out.push(c),
        }
    }
    out
}
