//! Whether what runs in a container is well: how it is asked, and what it has answered.

use std::fmt;
use std::time::{Duration, Instant, SystemTime};

use serde::{Deserialize, Serialize};

use super::config::Config;
use super::container::Container;
use super::state::Phase;
use crate::error::{Context, Error, ErrorKind, Result};
use crate::image::Image;

/// How a container is asked whether it is well: a program that is run in it now and then, and ends with 0 if it is.
///
/// What is not said here an image's `HEALTHCHECK` says; what that leaves open has docker's defaults. The program has environment, user,
/// working directory and restrictions of the container, and no standard input.
///
/// ```no_run
/// use std::time::Duration;
/// use coracle::{Engine, container::HealthCheck};
///
/// let check = HealthCheck::shell("redis-cli ping | grep -q PONG").interval(Duration::from_secs(2)).retries(5);
/// let redis = Engine::open_default()?.container("redis:7").health_check(check).start()?;
/// redis.wait_healthy(Duration::from_secs(60))?;
/// # Ok::<(), coracle::Error>(())
/// ```
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
pub struct HealthCheck {
    test: Vec<String>,
    #[serde(flatten)]
    times: Times,
    #[serde(skip_serializing_if = "is_zero")]
    retries: i64,
}

/// In nanoseconds, as images have it; 0 is not said.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Times {
    #[serde(skip_serializing_if = "is_zero")]
    interval: i64,
    #[serde(skip_serializing_if = "is_zero")]
    timeout: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_period: i64,
    #[serde(skip_serializing_if = "is_zero")]
    start_interval: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde has it so")]
fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// No check is made more often than this, whatever was asked for: the thread that does has others to look after.
const SHORTEST: Duration = Duration::from_millis(10);
/// Nor, if an image asks, than this.
const SHORTEST_OF_IMAGE: Duration = Duration::from_secs(1);

impl HealthCheck {
    /// By this program and its arguments.
    pub fn command<S: Into<String>>(words: impl IntoIterator<Item = S>) -> Self {
        let words = words.into_iter().map(Into::into);
        Self::of(std::iter::once("CMD".to_owned()).chain(words).collect())
    }

    /// By this line, for the image's shell.
    pub fn shell(line: impl Into<String>) -> Self {
        Self::of(vec!["CMD-SHELL".to_owned(), line.into()])
    }

    /// By what the image says; to change its times.
    pub fn of_image() -> Self {
        Self::default()
    }

    /// Not at all, even if the image says so.
    pub fn none() -> Self {
        Self::of(vec!["NONE".to_owned()])
    }

    fn of(test: Vec<String>) -> Self {
        Self { test, ..Self::default() }
    }

    /// The time from the end of one check to the next, and before the first; 30 seconds by default.
    pub fn interval(mut self, time: Duration) -> Self {
        self.times.interval = nanoseconds(time);
        self
    }

    /// How long a check may take: then it is killed and has failed. 30 seconds by default.
    pub fn timeout(mut self, time: Duration) -> Self {
        self.times.timeout = nanoseconds(time);
        self
    }

    /// How long it has to come up, from its start on: a check that fails until then does not count. None by default.
    pub fn start_period(mut self, time: Duration) -> Self {
        self.times.start_period = nanoseconds(time);
        self
    }

    /// The time between checks in the [start period](Self::start_period), until it is well; 5 seconds by default.
    pub fn start_interval(mut self, time: Duration) -> Self {
        self.times.start_interval = nanoseconds(time);
        self
    }

    /// How many checks must fail in a row for it to be unhealthy; 3 by default.
    pub fn retries(mut self, count: u32) -> Self {
        self.retries = count.into();
        self
    }

    /// What a container of this image is asked; `None` if nothing is.
    pub(super) fn resolve(config: &Config, image: &Image) -> Result<Option<Self>> {
        let mut check = config.health.clone().unwrap_or_default();
        if check.test.first().is_none_or(|kind| kind != "NONE") {
            check = check.over(of_image(image).map_err(|err| {
                err.with_hint("have none made: --no-healthcheck, ContainerBuilder::no_health_check")
            })?);
        }
        let words: Vec<_> = check.test.iter().map(String::as_str).collect();
        match words[..] {
            [] | [""] | ["NONE"] => Ok(None),
            ["CMD", _, ..] | ["CMD-SHELL", _] => Ok(Some(check)),
            _ => Err(Error::invalid(format!("the health check {words:?} cannot be meant"))),
        }
    }

    /// This, where it is said, in place of the image's.
    fn over(self, image: Self) -> Self {
        let or = |own: i64, image: i64| if own > 0 { own } else { image.max(0) };
        let pause = |own: i64, image: i64| match image {
            ..=0 => own.max(0),
            _ => or(own, image.max(nanoseconds(SHORTEST_OF_IMAGE))),
        };
        Self {
            test: if self.test.is_empty() { image.test } else { self.test },
            times: Times {
                interval: pause(self.times.interval, image.times.interval),
                timeout: or(self.times.timeout, image.times.timeout),
                start_period: or(self.times.start_period, image.times.start_period),
                start_interval: pause(self.times.start_interval, image.times.start_interval),
            },
            retries: or(self.retries, image.retries),
        }
    }

    /// Program and arguments.
    pub(super) fn words(&self, image: &Image) -> Vec<String> {
        match &self.test[..] {
            [kind, line] if kind == "CMD-SHELL" => {
                let shell = image.config().raw().get("config").and_then(|it| it.get("Shell"));
                let shell = shell.and_then(|it| serde_json::from_value(it.clone()).ok());
                let shell: Option<Vec<String>> = shell.filter(|it: &Vec<String>| !it.is_empty());
                let mut words = shell.unwrap_or_else(|| vec!["/bin/sh".into(), "-c".into()]);
                words.push(line.clone());
                words
            }
            words => words.get(1..).unwrap_or_default().to_vec(),
        }
    }

    pub(super) fn time_limit(&self) -> Duration {
        time(self.times.timeout).unwrap_or(Duration::from_secs(30))
    }

    /// Whether it may still be coming up, so long after its start.
    pub(super) fn is_start(&self, health: &Health, since: Duration) -> bool {
        let period = time(self.times.start_period).unwrap_or_default();
        health.status == HealthStatus::Starting && since < period
    }

    /// The time until it is asked next.
    pub(super) fn pause(&self, is_start: bool) -> Duration {
        let (asked, default) = match is_start {
            true => (self.times.start_interval, 5),
            false => (self.times.interval, 30),
        };
        time(asked).unwrap_or(Duration::from_secs(default)).max(SHORTEST)
    }

    /// Takes a result into account. True: the status is another now.
    pub(super) fn judge(&self, health: &mut Health, probe: Probe, is_start: bool) -> bool {
        let retries = u32::try_from(self.retries).unwrap_or(u32::MAX);
        let before = health.status;
        if probe.exit_code == 0 {
            health.failing_streak = 0;
            health.status = HealthStatus::Healthy;
        } else if !is_start {
            health.failing_streak = health.failing_streak.saturating_add(1);
            if health.failing_streak >= if retries == 0 { 3 } else { retries } {
                health.status = HealthStatus::Unhealthy;
            }
        }
        if health.probes.len() >= Health::KEPT {
            health.probes.remove(0);
        }
        health.probes.push(probe);
        health.status != before
    }
}

fn nanoseconds(time: Duration) -> i64 {
    i64::try_from(time.as_nanos()).unwrap_or(i64::MAX)
}

fn time(nanoseconds: i64) -> Option<Duration> {
    u64::try_from(nanoseconds).ok().filter(|it| *it > 0).map(Duration::from_nanos)
}

fn of_image(image: &Image) -> Result<HealthCheck> {
    let check = image.config().raw().get("config").and_then(|config| config.get("Healthcheck"));
    let Some(check) = check.filter(|check| !check.is_null()) else {
        return Ok(HealthCheck::default());
    };
    serde_json::from_value(check.clone()).map_err(|err| {
        let err = Error::new(ErrorKind::Malformed, err.to_string());
        err.context("read the health check of the image")
    })
}

/// Whether a container is well.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
#[non_exhaustive]
pub enum HealthStatus {
    /// It has not been well yet, and that may be since it is coming up.
    #[default]
    Starting,
    /// It is.
    Healthy,
    /// It is not.
    Unhealthy,
}

impl fmt::Display for HealthStatus {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.pad(match self {
            Self::Starting => "starting",
            Self::Healthy => "healthy",
            Self::Unhealthy => "unhealthy",
        })
    }
}

/// What is known of a container's health. Of one that has ended it is the last that was known.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Health {
    /// All in all.
    pub status: HealthStatus,
    /// How many checks have failed since the last that did not.
    pub failing_streak: u32,
    /// The last five checks, the newest last.
    pub probes: Vec<Probe>,
}

impl Health {
    const KEPT: usize = 5;
}

/// The file `health.json`.
#[derive(Debug, Serialize, Deserialize)]
pub(super) struct HealthRecord {
    pub(super) version: u32,
    #[serde(flatten)]
    pub(super) health: Health,
}

/// One check and its result.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
#[non_exhaustive]
pub struct Probe {
    /// When it began.
    pub started: SystemTime,
    /// When it ended.
    pub ended: SystemTime,
    /// Its exit status as a shell tells it; -1 if it took too long or could not be started.
    pub exit_code: i32,
    /// The last 4096 bytes of what it wrote, or why it could not.
    pub output: String,
}

impl Container {
    /// How it is asked whether it is well, the image's word included; `None` if it is not.
    ///
    /// # Errors
    ///
    /// `NotFound` if it has been removed.
    pub fn health_check(&self) -> Result<Option<HealthCheck>> {
        Ok(self.home().identity(self.id())?.health)
    }

    /// Waits until it is well, for so long at the most. One that is unhealthy may become well again.
    ///
    /// # Errors
    ///
    /// `TimedOut`, with what the last check has said; `InvalidState` if it has no health check or has ended.
    pub fn wait_healthy(&self, timeout: Duration) -> Result<()> {
        self.try_wait_healthy(timeout).context(|| self.says("wait for the health of"))
    }

    fn try_wait_healthy(&self, timeout: Duration) -> Result<()> {
        // How soon an end is noticed that nobody tells of.
        const REFRESH: Duration = Duration::from_secs(1);
        let until = Instant::now().checked_add(timeout);
        let events = self.home().events().container(self.id().as_str());
        let mut events = events.action("health_status").action("die").listen()?;
        loop {
            let status = self.status()?;
            let going_on =
                matches!(status.phase, Phase::Running | Phase::Paused | Phase::Restarting);
            let health = status
                .health
                .ok_or_else(|| Error::new(ErrorKind::InvalidState, "it has no health check"))?;
            if !going_on {
                let message = format!("it is {}", status.phase);
                return Err(Error::new(ErrorKind::InvalidState, message));
            }
            if health.status == HealthStatus::Healthy && status.phase != Phase::Restarting {
                return Ok(());
            }
            let left = until.map_or(REFRESH, |it| it.saturating_duration_since(Instant::now()));
            if left.is_zero() {
                let last = health.probes.last().map_or("no check has ended yet", |it| &it.output);
                let message = format!("it is {}: {}", health.status, last.trim_end());
                return Err(Error::new(ErrorKind::TimedOut, message));
            }
            events.next_timeout(left.min(REFRESH))?;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn probe(exit_code: i32) -> Probe {
        let time = SystemTime::UNIX_EPOCH;
        Probe { started: time, ended: time, exit_code, output: exit_code.to_string() }
    }

    #[test]
    fn failures_count_in_a_row_and_not_while_it_comes_up() {
        use HealthStatus::{Healthy, Starting, Unhealthy};
        let check = HealthCheck::shell("x").retries(2).start_period(Duration::from_secs(10));
        let mut health = Health::default();
        for (exit_code, after, status, streak, changed) in [
            (1, 1, Starting, 0, false),
            (1, 9, Starting, 0, false),
            (1, 10, Starting, 1, false),
            (0, 11, Healthy, 0, true),
            (-1, 12, Healthy, 1, false),
            (0, 13, Healthy, 0, false),
            (1, 14, Healthy, 1, false),
            (137, 15, Unhealthy, 2, true),
            (1, 16, Unhealthy, 3, false),
            (0, 17, Healthy, 0, true),
            // Once well, it is not coming up any more.
            (1, 1, Healthy, 1, false),
        ] {
            let is_start = check.is_start(&health, Duration::from_secs(after));
            assert_eq!(check.judge(&mut health, probe(exit_code), is_start), changed, "{after}");
            assert_eq!((health.status, health.failing_streak), (status, streak), "{after}");
        }
        let outputs: Vec<_> = health.probes.iter().map(|it| it.output.as_str()).collect();
        assert_eq!(outputs, ["1", "137", "1", "0", "1"]);
    }

    #[test]
    fn what_is_said_counts_more_than_the_image() {
        let image = r#"{"Test":["CMD","a"],"Interval":1,"Timeout":2000000000,"StartPeriod":-5,"Retries":7}"#;
        let image: HealthCheck = serde_json::from_str(image).unwrap();
        let check = HealthCheck::of_image().timeout(Duration::from_secs(9)).over(image.clone());
        assert_eq!(check.test, ["CMD", "a"]);
        assert_eq!(check.time_limit(), Duration::from_secs(9));
        assert_eq!(
            (check.pause(false), check.pause(true)),
            (SHORTEST_OF_IMAGE, Duration::from_secs(5))
        );
        assert_eq!((check.times.start_period, check.retries), (0, 7));
        let own =
            HealthCheck::shell("b").interval(Duration::from_millis(20)).retries(1).over(image);
        assert_eq!((own.test[1].as_str(), own.retries), ("b", 1));
        assert_eq!(own.pause(false), Duration::from_millis(20));
        let written = serde_json::to_value(&own).unwrap();
        let expected = serde_json::json!({"Test": ["CMD-SHELL", "b"], "Interval": 20_000_000, "Timeout": 2_000_000_000_i64, "Retries": 1});
        assert_eq!(written, expected);
        assert_eq!(serde_json::from_value::<HealthCheck>(written).unwrap(), own);
        assert_eq!(HealthCheck::default().pause(false), Duration::from_secs(30));
    }
}
