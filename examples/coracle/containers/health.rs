//! How a container is asked whether it is well: options of `run` and `create`.

use std::time::Duration;

use coracle::container::HealthCheck;
use jiff::SignedDuration;

use crate::failure::{Failure, Result, USAGE};

#[derive(clap::Args)]
#[command(next_help_heading = "Health")]
pub struct Checks {
    /// Run this line in it now and then, for its shell: with exit status 0 it is well
    #[arg(long, value_name = "LINE")]
    health_cmd: Option<String>,
    /// The time between two such checks; by default 30s, or what the image says
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    health_interval: Option<Duration>,
    /// How long one may take, by default 30s
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    health_timeout: Option<Duration>,
    /// How many must fail in a row for it to be unhealthy; by default 3
    #[arg(long, value_name = "NUMBER")]
    health_retries: Option<u32>,
    /// How long it has to come up, so that a failure does not count
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    health_start_period: Option<Duration>,
    /// The time between two checks meanwhile; by default 5s
    #[arg(long, value_name = "TIME", value_parser = time, allow_hyphen_values = true)]
    health_start_interval: Option<Duration>,
    /// Do not ask, even if the image says so
    #[arg(long)]
    no_healthcheck: bool,
}

/// `1m30s`, `500ms`; 0 for the default.
fn time(text: &str) -> Result<Duration, String> {
    let time: SignedDuration = match text {
        "0" => SignedDuration::ZERO,
        _ => text.parse().map_err(|_| "a time like 1m30s or 500ms is wanted")?,
    };
    match Duration::try_from(time) {
        Err(_) => Err("it cannot be negative".into()),
        Ok(time) if !time.is_zero() && time < Duration::from_millis(1) => {
            Err("it cannot be less than 1ms".into())
        }
        Ok(time) => Ok(time),
    }
}

impl Checks {
    /// `None` for the image's.
    pub fn check(self) -> Result<Option<HealthCheck>> {
        let times = [
            self.health_interval,
            self.health_timeout,
            self.health_start_period,
            self.health_start_interval,
        ];
        let said = times.iter().any(Option::is_some) || self.health_retries.is_some();
        if self.no_healthcheck {
            return match said || self.health_cmd.is_some() {
                true => Err(Failure::with_status(
                    USAGE,
                    "--no-healthcheck conflicts with --health-* options",
                )),
                false => Ok(Some(HealthCheck::none())),
            };
        }
        if !said && self.health_cmd.is_none() {
            return Ok(None);
        }
        let mut check = match self.health_cmd {
            Some(line) => HealthCheck::shell(line),
            None => HealthCheck::of_image(),
        };
        let set: [fn(HealthCheck, Duration) -> HealthCheck; 4] = [
            HealthCheck::interval,
            HealthCheck::timeout,
            HealthCheck::start_period,
            HealthCheck::start_interval,
        ];
        for (set, time) in set.into_iter().zip(times) {
            check = time.into_iter().fold(check, set);
        }
        Ok(Some(self.health_retries.into_iter().fold(check, HealthCheck::retries)))
    }
}
