//! Files of variables and of labels, as `--env-file` and `--label-file` name them.

use std::fs;
use std::path::Path;

/// `NAME=VALUE` lines, or bare names. Lines that begin with # are for people.
pub fn read(path: &Path) -> Result<Vec<String>, String> {
    let text = fs::read_to_string(path).map_err(|err| format!("read {}: {err}", path.display()))?;
    parse(&text).map_err(|why| format!("{}: {why}", path.display()))
}

fn parse(text: &str) -> Result<Vec<String>, String> {
    let mut lines = Vec::new();
    for (number, line) in text.trim_start_matches('\u{feff}').lines().enumerate() {
        let line = line.trim_start();
        if line.is_empty() || line.starts_with('#') {
            continue;
        }
        let name = line.split_once('=').map_or(line, |(name, _)| name);
        if name.is_empty() || name.contains(char::is_whitespace) {
            return Err(format!("line {}: {name:?} is no name", number + 1));
        }
        lines.push(line.to_owned());
    }
    Ok(lines)
}

/// Variables of which some may be names alone: these get the value that they have here, if they have one.
pub fn with_values(variables: Vec<String>) -> Vec<String> {
    let value = |name: String| match std::env::var(&name) {
        Ok(value) if !name.contains('=') => format!("{name}={value}"),
        _ => name,
    };
    variables.into_iter().map(value).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_are_variables_comments_or_mistakes() {
        let text = "\u{feff}A=b c\n# note\n\n  B= spaces stay \nC\nD=x=y #z\n";
        let expected = ["A=b c", "B= spaces stay ", "C", "D=x=y #z"];
        assert_eq!(parse(text), Ok(expected.map(str::to_owned).to_vec()));
        for wrong in ["A B=c", "=x", "ok=1\nbad name"] {
            assert!(parse(wrong).is_err(), "{wrong}");
        }
        assert!(parse("ok=1\nbad name").is_err_and(|why| why.starts_with("line 2")));
        assert!(read(Path::new("/no/such")).is_err_and(|why| why.contains("/no/such")));
    }
}
