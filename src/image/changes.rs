//! Changes of a configuration: what a commit or an import sets beside the files.

use std::ops::RangeInclusive;
use std::time::SystemTime;

use serde_json::{Map, Value, json};

use super::instruction::{self, Line};
use super::json::{Object, malformed};
use super::platform::Platform;
use crate::error::{Error, Result};

/// What to change in the configuration of an image: in the order in which it is said, the last one counts.
///
/// ```
/// use coracle::image::ConfigChanges;
///
/// let changes = ConfigChanges::new()
///     .entrypoint(["/srv/app"])
///     .env("LANG", "C.UTF-8")
///     .message("add app")
///     .instruction(r#"EXPOSE 80 443/tcp"#)?;
/// # let _ = changes;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq)]
#[must_use = "it changes nothing by itself"]
pub struct ConfigChanges {
    changes: Vec<Change>,
    platform: Option<Platform>,
    message: Option<String>,
    created: Option<SystemTime>,
    created_by: Option<String>,
}

#[derive(Clone, Debug, PartialEq)]
pub(super) enum Change {
    Cmd(Line),
    Entrypoint(Line),
    Env(String, String),
    Label(String, String),
    Expose(RangeInclusive<u16>, String),
    Volume(String),
    User(String),
    WorkingDir(String),
    StopSignal(String),
    Author(String),
    OnBuild(String),
    Shell(Vec<String>),
    Healthcheck(Value),
    /// Read again when it is known what its variables are.
    Instruction(String),
}

fn list<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Line {
    Line::List(words.into_iter().map(Into::into).collect())
}

impl ConfigChanges {
    /// No changes yet.
    pub fn new() -> Self {
        Self::default()
    }

    fn with(mut self, change: Change) -> Self {
        self.changes.push(change);
        self
    }

    /// What runs if nothing is said, or the arguments of the entry point.
    pub fn cmd<S: Into<String>>(self, command: impl IntoIterator<Item = S>) -> Self {
        self.with(Change::Cmd(list(command)))
    }

    /// What runs in front of the command. Without a [`cmd`](Self::cmd) of these changes the image has none then, as its old
    /// one was another program's.
    pub fn entrypoint<S: Into<String>>(self, command: impl IntoIterator<Item = S>) -> Self {
        self.with(Change::Entrypoint(list(command)))
    }

    /// A variable of the environment.
    pub fn env(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(Change::Env(name.into(), value.into()))
    }

    /// A label.
    pub fn label(self, name: impl Into<String>, value: impl Into<String>) -> Self {
        self.with(Change::Label(name.into(), value.into()))
    }

    /// The user to run as: `name`, `uid`, `user:group`.
    pub fn user(self, user: impl Into<String>) -> Self {
        self.with(Change::User(user.into()))
    }

    /// The directory to run in; a relative one goes on from the old one.
    pub fn working_dir(self, directory: impl Into<String>) -> Self {
        self.with(Change::WorkingDir(directory.into()))
    }

    /// A directory that every container gets a volume for.
    pub fn volume(self, directory: impl Into<String>) -> Self {
        self.with(Change::Volume(directory.into()))
    }

    /// The signal that asks the program to end.
    pub fn stop_signal(self, signal: impl Into<String>) -> Self {
        self.with(Change::StopSignal(signal.into()))
    }

    /// Who made the image.
    pub fn author(self, author: impl Into<String>) -> Self {
        self.with(Change::Author(author.into()))
    }

    /// The machine that the image is for; an import is for the host's if it is not said.
    pub fn platform(mut self, platform: Platform) -> Self {
        self.platform = Some(platform);
        self
    }

    /// What the history says about this step.
    pub fn message(mut self, message: impl Into<String>) -> Self {
        self.message = Some(message.into());
        self
    }

    /// When it is made; now if it is not said. No file of a layer that is made with it is younger either: with
    /// `SOURCE_DATE_EPOCH` the same files and changes give the same image, to the digest.
    pub fn created(mut self, time: SystemTime) -> Self {
        self.created = Some(time);
        self
    }

    /// The command that the history gives for this step.
    pub fn created_by(mut self, command: impl Into<String>) -> Self {
        self.created_by = Some(command.into());
        self
    }

    /// An instruction of a Dockerfile, as `--change` of docker takes it: `CMD ["/srv/app"]`, `ENV PATH=/srv:$PATH`. One of
    /// CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, MAINTAINER, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR.
    ///
    /// # Errors
    ///
    /// `InvalidInput` if it is none of these, or cannot be meant.
    pub fn instruction(self, instruction: &str) -> Result<Self> {
        super::instruction::parse(instruction, &[])?;
        Ok(self.with(Change::Instruction(instruction.to_owned())))
    }

    /// Changes a configuration.
    pub(super) fn apply(&self, document: &mut Object) -> Result<()> {
        if let Some(platform) = &self.platform {
            document.insert("os".to_owned(), platform.os().into());
            document.insert("architecture".to_owned(), platform.architecture().into());
            match platform.variant() {
                Some(variant) => drop(document.insert("variant".to_owned(), variant.into())),
                None => drop(document.remove("variant")),
            }
        }
        document.insert("created".to_owned(), self.time()?.into());
        let mut config = match document.remove("config") {
            Some(Value::Object(config)) => config,
            None | Some(Value::Null) => Object::new(),
            Some(_) => return Err(malformed("its config is no object")),
        };
        let mut commands = (false, false);
        for change in &self.changes {
            match change {
                Change::Instruction(text) => {
                    let env = strings(&config, "Env");
                    for change in instruction::parse(text, &env)? {
                        apply(&change, document, &mut config, &mut commands)?;
                    }
                }
                change => apply(change, document, &mut config, &mut commands)?,
            }
        }
        if commands == (false, true) {
            config.remove("Cmd");
        }
        document.insert("config".to_owned(), config.into());
        Ok(())
    }

    /// The step for the history.
    pub(super) fn step(&self, empty_layer: bool, default_message: &str) -> Result<Value> {
        let mut step = Map::new();
        let message = self.message.as_deref().unwrap_or(default_message);
        let author = self.changes.iter().rev().find_map(|change| match change {
            Change::Author(author) => Some(author.as_str()),
            _ => None,
        });
        step.insert("created".to_owned(), self.time()?.into());
        for (key, value) in [
            ("created_by", self.created_by.as_deref()),
            ("comment", Some(message)),
            ("author", author),
        ] {
            if let Some(value) = value.filter(|value| !value.is_empty()) {
                step.insert(key.to_owned(), value.into());
            }
        }
        if empty_layer {
            step.insert("empty_layer".to_owned(), true.into());
        }
        Ok(step.into())
    }

    /// Fixes the time, so that the configuration and its history tell the same.
    pub(super) fn at_a_time(&self) -> Self {
        let created = self.created.or_else(|| Some(SystemTime::now()));
        Self { created, ..self.clone() }
    }

    /// The [message](Self::message).
    #[cfg(feature = "container")]
    pub(crate) fn comment(&self) -> &str {
        self.message.as_deref().unwrap_or_default()
    }

    /// The time, if it was [said](Self::created).
    pub(super) fn fixed_time(&self) -> Option<SystemTime> {
        self.created
    }

    fn time(&self) -> Result<String> {
        let time = self.created.unwrap_or_else(SystemTime::now);
        match jiff::Timestamp::try_from(time) {
            Ok(time) => Ok(time.to_string()),
            Err(_) => Err(Error::invalid("the time of creation is beyond the year 9999")),
        }
    }
}

fn strings(config: &Object, field: &str) -> Vec<String> {
    let items = config.get(field).and_then(Value::as_array).into_iter().flatten();
    items.filter_map(|item| item.as_str().map(str::to_owned)).collect()
}

/// `commands` notes whether a command and an entry point have been set.
fn apply(
    change: &Change,
    document: &mut Object,
    config: &mut Object,
    commands: &mut (bool, bool),
) -> Result<()> {
    if has_nul(change) {
        return Err(Error::invalid("a NUL byte, which no program could be given"));
    }
    let mut set = |field: &str, value: Value| drop(config.insert(field.to_owned(), value));
    let member = |config: &mut Object, field: &str, key: String, value: Value| {
        let entry = config.entry(field).or_insert_with(|| json!({}));
        if !entry.is_object() {
            *entry = json!({});
        }
        entry[key] = value;
    };
    match change {
        Change::Cmd(line) => {
            commands.0 = true;
            let line = words(line, config);
            config.insert("Cmd".to_owned(), line);
        }
        Change::Entrypoint(line) => {
            commands.1 = true;
            let line = words(line, config);
            config.insert("Entrypoint".to_owned(), line);
        }
        Change::Env(name, value) => {
            if name.is_empty() || name.contains(['=', '\0']) || value.contains('\0') {
                return Err(Error::invalid(format!("{name:?} is no name of a variable")));
            }
            let mut env = strings(config, "Env");
            let new = format!("{name}={value}");
            let same = |old: &String| old.split_once('=').map_or(old.as_str(), |(n, _)| n) == name;
            match env.iter().position(same) {
                Some(at) => env[at] = new,
                None => env.push(new),
            }
            config.insert("Env".to_owned(), env.into());
        }
        Change::Label(name, value) => {
            member(config, "Labels", name.clone(), value.clone().into());
        }
        Change::Expose(ports, protocol) => {
            for port in ports.clone() {
                member(config, "ExposedPorts", format!("{port}/{protocol}"), json!({}));
            }
        }
        Change::Volume(path) => member(config, "Volumes", path.clone(), json!({})),
        Change::User(user) => set("User", user.clone().into()),
        Change::StopSignal(signal) => set("StopSignal", signal.clone().into()),
        Change::WorkingDir(directory) => {
            let old = config.get("WorkingDir").and_then(Value::as_str).unwrap_or_default();
            let new = match directory.starts_with('/') {
                true => directory.clone(),
                false => format!("{}/{directory}", old.trim_end_matches('/')),
            };
            config.insert("WorkingDir".to_owned(), new.into());
        }
        Change::Author(author) => {
            document.insert("author".to_owned(), author.clone().into());
        }
        Change::OnBuild(trigger) => {
            let mut triggers = strings(config, "OnBuild");
            triggers.push(trigger.clone());
            config.insert("OnBuild".to_owned(), triggers.into());
        }
        Change::Shell(shell) => set("Shell", shell.clone().into()),
        Change::Healthcheck(check) => set("Healthcheck", check.clone()),
        Change::Instruction(_) => {}
    }
    Ok(())
}

fn has_nul(change: &Change) -> bool {
    match change {
        Change::Cmd(Line::List(words)) | Change::Entrypoint(Line::List(words)) => {
            words.iter().any(|word| word.contains('\0'))
        }
        Change::Cmd(Line::Shell(text)) | Change::Entrypoint(Line::Shell(text)) => {
            text.contains('\0')
        }
        Change::Shell(words) => words.iter().any(|word| word.contains('\0')),
        Change::Volume(text) | Change::User(text) | Change::WorkingDir(text) => text.contains('\0'),
        _ => false,
    }
}

fn words(line: &Line, config: &Object) -> Value {
    match line {
        Line::List(list) => list.clone().into(),
        Line::Shell(line) => {
            let mut shell = strings(config, "Shell");
            if shell.is_empty() {
                shell = vec!["/bin/sh".to_owned(), "-c".to_owned()];
            }
            shell.push(line.clone());
            shell.into()
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::{Duration, UNIX_EPOCH};

    use super::*;
    use crate::ErrorKind;

    fn applied(changes: &ConfigChanges, config: Value) -> Value {
        let mut document = Object::new();
        document.insert("config".to_owned(), config);
        changes.apply(&mut document).unwrap();
        document.into()
    }

    fn instructions(list: &[&str]) -> ConfigChanges {
        list.iter().fold(ConfigChanges::new(), |all, one| all.instruction(one).unwrap())
    }

    #[test]
    fn changes_are_made_to_what_is_there_and_the_rest_stays() {
        let changes = ConfigChanges::new()
            .env("PATH", "/srv:/bin")
            .env("NEW", "1=2")
            .label("a", "b")
            .working_dir("sub")
            .user("app")
            .volume("/data")
            .author("me")
            .created(UNIX_EPOCH + Duration::from_secs(1))
            .platform("linux/arm/v7".parse().unwrap());
        let found = applied(
            &changes,
            json!({"Env": ["A=1", "PATH=/bin"], "WorkingDir": "/srv/", "Labels": null, "Cmd": ["x"],
                "Healthcheck": {"Test": ["NONE"]}}),
        );
        let expected = json!({
            "author": "me", "created": "1970-01-01T00:00:01Z",
            "os": "linux", "architecture": "arm", "variant": "v7",
            "config": {"Env": ["A=1", "PATH=/srv:/bin", "NEW=1=2"], "WorkingDir": "/srv/sub",
                "Labels": {"a": "b"}, "User": "app", "Volumes": {"/data": {}}, "Cmd": ["x"],
                "Healthcheck": {"Test": ["NONE"]}},
        });
        assert_eq!(found, expected);
        let step = changes.message("hello").step(true, "").unwrap();
        let expected = json!({"created": "1970-01-01T00:00:01Z", "comment": "hello", "author": "me", "empty_layer": true});
        assert_eq!(step, expected);
    }

    #[test]
    fn a_new_entry_point_drops_the_old_command() {
        let old = || json!({"Cmd": ["old"], "Entrypoint": ["old"]});
        let entrypoint = ConfigChanges::new().entrypoint(["new"]);
        assert_eq!(applied(&entrypoint, old())["config"], json!({"Entrypoint": ["new"]}));
        for both in
            [entrypoint.clone().cmd(["x"]), ConfigChanges::new().cmd(["x"]).entrypoint(["new"])]
        {
            let expected = json!({"Entrypoint": ["new"], "Cmd": ["x"]});
            assert_eq!(applied(&both, old())["config"], expected);
        }
    }

    #[test]
    fn instructions_mean_what_they_mean_to_docker() {
        let changes = instructions(&[
            "ENV PATH=/srv:$PATH LANG=\"C UTF\"",
            "env OLD the old form",
            "ENV NEW=${OLD}!",
            "LABEL a=b \"c d\"='e f'",
            "CMD echo \"$PATH\" ",
            "ENTRYPOINT [\"/srv/app\", \"-v\"]",
            "EXPOSE 80 53/UDP 8000-8001",
            "VOLUME [\"/a b\", \"/c\"]",
            "VOLUME /d /e",
            "WORKDIR /x",
            "WORKDIR y",
            "USER 1000:1000",
            "STOPSIGNAL SIGINT",
            "ONBUILD RUN make",
            "HEALTHCHECK --interval=1m30s --retries=3 CMD curl -f localhost",
        ]);
        let found = applied(&changes, json!({"Env": ["PATH=/bin"]}));
        let expected = json!({
            "Env": ["PATH=/srv:/bin", "LANG=C UTF", "OLD=the old form", "NEW=the old form!"],
            "Labels": {"a": "b", "c d": "e f"},
            "Cmd": ["/bin/sh", "-c", "echo \"$PATH\""],
            "Entrypoint": ["/srv/app", "-v"],
            "ExposedPorts": {"80/tcp": {}, "53/udp": {}, "8000/tcp": {}, "8001/tcp": {}},
            "Volumes": {"/a b": {}, "/c": {}, "/d": {}, "/e": {}},
            "WorkingDir": "/x/y",
            "User": "1000:1000",
            "StopSignal": "SIGINT",
            "OnBuild": ["RUN make"],
            "Healthcheck": {"Test": ["CMD-SHELL", "curl -f localhost"], "Interval": 90_000_000_000_u64, "Retries": 3},
        });
        assert_eq!(found["config"], expected);
    }

    #[test]
    fn instructions_without_sense_are_refused() {
        for wrong in [
            "",
            "RUN make",
            "CMD",
            "ENV",
            "ENV a",
            "ENV =b",
            "ENV a=b c",
            "ENV a=\"b",
            "EXPOSE 0",
            "EXPOSE 70000",
            "EXPOSE 9-8",
            "EXPOSE 80/icmp",
            "SHELL sh",
            "HEALTHCHECK maybe",
            "HEALTHCHECK --interval=x CMD y",
            "FROM debian",
        ] {
            let err = ConfigChanges::new().instruction(wrong).unwrap_err();
            assert_eq!(err.kind(), ErrorKind::InvalidInput, "{wrong}");
        }
    }
}
