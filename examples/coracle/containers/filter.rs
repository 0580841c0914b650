//! Which containers `ps` shows.

use coracle::Engine;
use coracle::container::{Container, MountSource, Status};

use super::list::phase;
use crate::failure::{Failure, Result};
use crate::filter::Condition;

pub const HELP: &str = "\
Filters (of one name any must be met, of several names all; labels all):
  id=ID  name=PART  label=KEY[=VALUE]  status=created|running|paused|restarting|exited
  exited=CODE  ancestor=IMAGE  before=CONTAINER  since=CONTAINER  volume=NAME|TARGET  network=none|host
  health=starting|healthy|unhealthy|none";

/// A container as far as lists tell of it.
pub struct Seen {
    pub container: Container,
    pub name: String,
    pub config: coracle::container::Config,
    pub status: Status,
}

impl Seen {
    pub fn of(container: Container) -> coracle::Result<Self> {
        let (name, config) = (container.name()?, container.config()?);
        Ok(Self { status: container.status()?, name, config, container })
    }
}

/// Only those that meet the conditions.
pub fn apply(engine: &Engine, conditions: &[Condition], seen: &mut Vec<Seen>) -> Result<()> {
    let names: Vec<_> = conditions.iter().map(|it| it.parts().0).collect();
    for (number, name) in names.iter().enumerate() {
        let same: Vec<_> = match *name {
            "label" => vec![conditions[number].parts().1],
            name if names[..number].contains(&name) => continue,
            name => conditions.iter().filter(|it| it.is(name)).map(|it| it.parts().1).collect(),
        };
        let tests = same.iter().map(|value| test(engine, name, value));
        let tests = tests.collect::<Result<Vec<_>>>()?;
        seen.retain(|one| tests.iter().any(|test| test(one)));
    }
    Ok(())
}

type Test = Box<dyn Fn(&Seen) -> bool>;

fn test(engine: &Engine, name: &str, value: &str) -> Result<Test> {
    let owned = value.to_owned();
    let invalid = || Failure::new(format!("invalid filter '{name}={value}'"));
    let made = || Ok::<_, Failure>(engine.find(value)?.status()?.created);
    Ok(match name {
        "id" => Box::new(move |it| it.container.id().as_str().starts_with(&owned)),
        "name" => Box::new(move |it| it.name.contains(owned.trim_start_matches('/'))),
        "label" => Box::new(move |it| match owned.split_once('=') {
            Some((key, value)) => it.config.labels.get(key).is_some_and(|found| found == value),
            None => it.config.labels.contains_key(&owned),
        }),
        "status" => match value {
            "created" | "running" | "paused" | "restarting" | "removing" | "exited" | "dead" => {
                Box::new(move |it| phase(it.status.phase) == owned)
            }
            _ => return Err(invalid()),
        },
        "exited" => {
            let code: u8 = value.parse().map_err(|_| invalid())?;
            Box::new(move |it| {
                let ended = it.status.exit.as_ref().map(super::ended);
                !it.status.phase.is_alive() && ended == Some(code)
            })
        }
        "ancestor" => {
            let image = engine.store().image(value)?;
            Box::new(move |it| {
                let own = it.container.image();
                own.is_ok_and(|own| own.diff_ids().starts_with(image.diff_ids()))
            })
        }
        "before" => {
            let made = made()?;
            Box::new(move |it| it.status.created < made)
        }
        "since" => {
            let made = made()?;
            Box::new(move |it| it.status.created > made)
        }
        "volume" => Box::new(move |it| {
            it.config.mounts.iter().any(|mount| {
                let named =
                    matches!(&mount.source, MountSource::Volume { name, .. } if *name == owned);
                named || mount.target.as_os_str() == owned.as_str()
            })
        }),
        "health" => match value {
            "none" | "starting" | "healthy" | "unhealthy" => Box::new(move |it| {
                let health = it.status.health.as_ref();
                health.map_or("none".to_owned(), |it| it.status.to_string()) == owned
            }),
            _ => return Err(invalid()),
        },
        "network" => match value {
            "none" | "host" => Box::new(move |it| it.config.share.network == (owned == "host")),
            _ => return Err(invalid()),
        },
        _ => return Err(Failure::new(format!("invalid filter '{name}'"))),
    })
}
