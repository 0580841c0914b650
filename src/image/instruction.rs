//! Instructions of a Dockerfile that change a configuration, as `--change` of docker takes them.

use std::collections::HashMap;

use super::changes::Change;
use crate::error::{Context, Error, Result};

/// Reads one instruction. Variables are taken from `env`.
pub(super) fn parse(instruction: &str, env: &[String]) -> Result<Vec<Change>> {
    let attempt = || format!("read the change {instruction:?}");
    let trimmed = instruction.trim();
    let (keyword, rest) = trimmed.split_once(char::is_whitespace).unwrap_or((trimmed, ""));
    read(&keyword.to_ascii_uppercase(), rest.trim(), &Words::new(env)).context(attempt)
}

fn read(keyword: &str, rest: &str, words: &Words<'_>) -> Result<Vec<Change>> {
    if rest.is_empty() && !keyword.is_empty() {
        return Err(Error::invalid(format!("{keyword} needs arguments")));
    }
    let one = |make: fn(String) -> Change| Ok(vec![make(words.whole(rest)?)]);
    match keyword {
        "CMD" => Ok(vec![Change::Cmd(command(rest))]),
        "ENTRYPOINT" => Ok(vec![Change::Entrypoint(command(rest))]),
        "ENV" => Ok(pairs(rest, words)?.into_iter().map(|(k, v)| Change::Env(k, v)).collect()),
        "LABEL" => Ok(pairs(rest, words)?.into_iter().map(|(k, v)| Change::Label(k, v)).collect()),
        "EXPOSE" => words.split(rest)?.into_iter().map(|port| ports(&port)).collect(),
        "VOLUME" => {
            let volumes = list(rest).map_or_else(|| words.split(rest), Ok)?;
            Ok(volumes.into_iter().map(Change::Volume).collect())
        }
        "USER" => one(Change::User),
        "WORKDIR" => one(Change::WorkingDir),
        "STOPSIGNAL" => one(Change::StopSignal),
        "MAINTAINER" => Ok(vec![Change::Author(rest.to_owned())]),
        "ONBUILD" => Ok(vec![Change::OnBuild(rest.to_owned())]),
        "SHELL" => match list(rest) {
            Some(shell) if !shell.is_empty() => Ok(vec![Change::Shell(shell)]),
            _ => Err(Error::invalid("SHELL needs a list in JSON")),
        },
        "HEALTHCHECK" => Ok(vec![Change::Healthcheck(health(rest)?)]),
        other => Err(Error::invalid(format!("{other:?} changes no configuration")).with_hint(
            "CMD, ENTRYPOINT, ENV, EXPOSE, HEALTHCHECK, LABEL, MAINTAINER, ONBUILD, SHELL, STOPSIGNAL, USER, VOLUME and WORKDIR do",
        )),
    }
}

/// A command as a list in JSON, or as a line for the shell.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Line {
    List(Vec<String>),
    Shell(String),
}

fn command(text: &str) -> Line {
    list(text).map_or_else(|| Line::Shell(text.to_owned()), Line::List)
}

fn list(text: &str) -> Option<Vec<String>> {
    serde_json::from_str(text).ok()
}

fn pairs(rest: &str, words: &Words<'_>) -> Result<Vec<(String, String)>> {
    let first = rest.split(char::is_whitespace).next().unwrap_or_default();
    if !first.contains('=') {
        // The old form: one name, and all the rest is its value.
        let (name, value) = rest
            .split_once(char::is_whitespace)
            .ok_or_else(|| Error::invalid(format!("{rest:?} has no value")))?;
        return Ok(vec![(words.whole(name)?, words.whole(value.trim())?)]);
    }
    let pair = |word: String| match word.split_once('=') {
        Some((name, value)) if !name.is_empty() => Ok((name.to_owned(), value.to_owned())),
        _ => Err(Error::invalid(format!("{word:?} is not of the form NAME=VALUE"))),
    };
    words.split(rest)?.into_iter().map(pair).collect()
}

/// `80`, `53/udp` or `8000-8010/tcp`.
fn ports(text: &str) -> Result<Change> {
    let (range, protocol) = text.split_once('/').unwrap_or((text, "tcp"));
    let (first, last) = range.split_once('-').unwrap_or((range, range));
    let protocol = protocol.to_ascii_lowercase();
    match (first.parse::<u16>(), last.parse::<u16>()) {
        (Ok(first), Ok(last))
            if first > 0 && first <= last && ["tcp", "udp", "sctp"].contains(&&*protocol) =>
        {
            Ok(Change::Expose(first..=last, protocol))
        }
        _ => Err(Error::invalid(format!("{text:?} is no port, nor a range of ports"))
            .with_hint("80, 53/udp or 8000-8010/tcp, for example")),
    }
}

/// The check as Docker keeps it: `NONE`, or options and a command.
fn health(rest: &str) -> Result<serde_json::Value> {
    let mut rest = rest;
    let mut check = serde_json::Map::new();
    while let Some(option) = rest.strip_prefix("--") {
        let (option, after) = option.split_once(char::is_whitespace).unwrap_or((option, ""));
        let wrong =
            || Error::invalid(format!("the option --{option} is unknown or has a bad value"));
        let (name, value) = option.split_once('=').ok_or_else(wrong)?;
        let value = match name {
            "interval" | "timeout" | "start-period" => nanoseconds(value).ok_or_else(wrong)?,
            "retries" => value.parse().map_err(|_| wrong())?,
            _ => return Err(wrong()),
        };
        let key = match name {
            "interval" => "Interval",
            "timeout" => "Timeout",
            "start-period" => "StartPeriod",
            _ => "Retries",
        };
        check.insert(key.to_owned(), value.into());
        rest = after.trim_start();
    }
    let (word, command_line) = rest.split_once(char::is_whitespace).unwrap_or((rest, ""));
    let test = match (word.to_ascii_uppercase().as_str(), command_line.trim()) {
        ("NONE", "") if check.is_empty() => vec!["NONE".to_owned()],
        ("CMD", line) if !line.is_empty() => match command(line) {
            Line::List(list) => [vec!["CMD".to_owned()], list].concat(),
            Line::Shell(line) => vec!["CMD-SHELL".to_owned(), line],
        },
        _ => return Err(Error::invalid("it is neither NONE nor a CMD")),
    };
    check.insert("Test".to_owned(), test.into());
    Ok(check.into())
}

/// A duration as Go writes it: `1m30s`, `1.5h`, `500ms`.
fn nanoseconds(text: &str) -> Option<i64> {
    let mut rest = text;
    let mut total = 0_f64;
    while !rest.is_empty() {
        let end = rest.find(|c: char| !c.is_ascii_digit() && c != '.')?;
        let number: f64 = rest[..end].parse().ok()?;
        rest = &rest[end..];
        let end = rest.find(|c: char| c.is_ascii_digit()).unwrap_or(rest.len());
        let unit = match &rest[..end] {
            "ns" => 1e0,
            "us" => 1e3,
            "ms" => 1e6,
            "s" => 1e9,
            "m" => 60e9,
            "h" => 3600e9,
            _ => return None,
        };
        rest = &rest[end..];
        total += number * unit;
    }
    let exact = !text.is_empty() && total < 9e18;
    #[allow(
        clippy::cast_possible_truncation,
        reason = "it is in range, and whole nanoseconds are meant"
    )]
    exact.then_some(total as i64)
}

/// Takes words apart as a Dockerfile's are: quotes, backslashes, variables.
struct Words<'a>(HashMap<&'a str, &'a str>);

impl<'a> Words<'a> {
    fn new(env: &'a [String]) -> Self {
        Self(env.iter().filter_map(|variable| variable.split_once('=')).collect())
    }

    /// The words between spaces.
    fn split(&self, text: &str) -> Result<Vec<String>> {
        self.read(text, true)
    }

    /// All of the text as one word.
    fn whole(&self, text: &str) -> Result<String> {
        Ok(self.read(text, false)?.pop().unwrap_or_default())
    }

    fn read(&self, text: &str, split: bool) -> Result<Vec<String>> {
        let mut words = Vec::new();
        // Quotes make a word even of nothing.
        let mut word: Option<String> = None;
        let mut quote = None;
        let mut rest = text;
        while let Some(c) = rest.chars().next() {
            rest = &rest[c.len_utf8()..];
            match (c, quote) {
                ('\'' | '"', Some(open)) if c == open => quote = None,
                ('\'' | '"', None) => {
                    quote = Some(c);
                    word.get_or_insert_default();
                }
                ('\\', None | Some('"')) => {
                    let next = rest.chars().next();
                    // Between double quotes a backslash stands for itself but before these.
                    let escapes = quote.is_none() || next.is_some_and(|c| "\"$\\".contains(c));
                    let c = if escapes { next.unwrap_or('\\') } else { '\\' };
                    if escapes && next.is_some() {
                        rest = &rest[c.len_utf8()..];
                    }
                    word.get_or_insert_default().push(c);
                }
                ('$', None | Some('"')) => {
                    let (value, after) = self.variable(rest)?;
                    word.get_or_insert_default().push_str(&value);
                    rest = after;
                }
                (c, None) if split && c.is_whitespace() => words.extend(word.take()),
                (c, _) => word.get_or_insert_default().push(c),
            }
        }
        if let Some(open) = quote {
            return Err(Error::invalid(format!("the quote {open} is never closed")));
        }
        words.extend(word);
        Ok(words)
    }

    /// The value of the variable that `text` begins with, behind the `$`, and what follows.
    fn variable<'t>(&self, text: &'t str) -> Result<(String, &'t str)> {
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '_';
        let value = |name: &str| self.0.get(name).map(|value| (*value).to_owned());
        let Some(inner) = text.strip_prefix('{') else {
            let end = text.find(|c| !is_name(c)).unwrap_or(text.len());
            return match end {
                0 => Ok(("$".to_owned(), text)),
                _ => Ok((value(&text[..end]).unwrap_or_default(), &text[end..])),
            };
        };
        let wrong = || Error::invalid(format!("the variable ${text} is not understood"));
        let end = inner.find('}').ok_or_else(wrong)?;
        let (inner, rest) = (&inner[..end], &inner[end + 1..]);
        let name_end = inner.find(|c| !is_name(c)).unwrap_or(inner.len());
        let (name, operation) = inner.split_at(name_end);
        let set = value(name).filter(|value| !value.is_empty());
        let value = match operation {
            _ if name.is_empty() => return Err(wrong()),
            "" => set.unwrap_or_default(),
            _ => match (operation.get(..2), operation.get(2..)) {
                (Some(":-"), Some(other)) => set.map_or_else(|| self.whole(other), Ok)?,
                (Some(":+"), Some(other)) => {
                    set.map_or_else(|| Ok(String::new()), |_| self.whole(other))?
                }
                _ => return Err(wrong()),
            },
        };
        Ok((value, rest))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_taken_apart_as_in_a_dockerfile() {
        let env = ["PATH=/bin".to_owned(), "EMPTY=".to_owned()];
        let words = Words::new(&env);
        for (text, expected) in [
            ("a  b", &["a", "b"][..]),
            (r#""a b" 'c "d' e"f"g"#, &["a b", "c \"d", "efg"]),
            (r#"a\ b "\"\$\n" '\n'"#, &["a b", "\"$\\n", "\\n"]),
            (
                r#"$PATH:/x "${PATH}y" '$PATH' \$PATH $"#,
                &["/bin:/x", "/biny", "$PATH", "$PATH", "$"],
            ),
            (
                "${NONE:-a}${EMPTY:-b}${PATH:-c} ${PATH:+set}${NONE:+set} ${NONE:-$PATH}",
                &["ab/bin", "set", "/bin"],
            ),
            ("'' x", &["", "x"]),
            ("ä=$NONE.ö", &["ä=.ö"]),
        ] {
            assert_eq!(words.split(text).unwrap(), expected, "{text}");
        }
        for wrong in ["'a", "\"a", "${PATH", "${PATH%x}", "${}", "${PATHä}"] {
            assert!(words.split(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn durations_are_those_of_go() {
        for (text, expected) in [
            ("1m30s", Some(90_000_000_000)),
            ("1.5s", Some(1_500_000_000)),
            ("500ms", Some(500_000_000)),
            ("", None),
            ("5", None),
            ("s", None),
            ("5d", None),
        ] {
            assert_eq!(nanoseconds(text), expected, "{text}");
        }
    }
}
