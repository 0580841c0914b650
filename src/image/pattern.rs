//! Patterns for names, as Go's `path.Match` reads them, which docker uses.

/// Whether `pattern` matches all of `text`: `*` and `?` match anything but `/`, `[a-z]` one of these, `[^a-z]` one of the
/// others, and `\` takes the next character as it is. A pattern with a mistake matches nothing.
pub(super) fn matches(pattern: &str, text: &str) -> bool {
    let (pattern, text): (Vec<_>, Vec<_>) = (pattern.chars().collect(), text.chars().collect());
    // Where to go on from if it fails: after the last star, one character further. A star that has met a `/` cannot
    // take more, and no earlier one can make up for it.
    let (mut p, mut t, mut star) = (0, 0, None);
    loop {
        let step = match pattern.get(p) {
            None if t == text.len() => return true,
            Some('*') => {
                star = Some((p + 1, t));
                p += 1;
                continue;
            }
            None => None,
            Some(_) => text.get(t).and_then(|c| one(&pattern[p..], *c)),
        };
        match (step, &mut star) {
            (Some(length), _) => {
                p += length;
                t += 1;
            }
            (None, Some((after, from))) if text.get(*from).is_some_and(|c| *c != '/') => {
                *from += 1;
                (p, t) = (*after, *from);
            }
            (None, _) => return false,
        }
    }
}

/// The length of the pattern's first element, if it matches the character.
fn one(pattern: &[char], c: char) -> Option<usize> {
    match pattern {
        ['?', ..] => (c != '/').then_some(1),
        ['\\', escaped, ..] => (*escaped == c).then_some(2),
        ['\\'] => None,
        ['[', rest @ ..] => class(rest, c).map(|length| length + 1),
        [literal, ..] => (*literal == c).then_some(1),
        [] => None,
    }
}

/// The length of the class up to and with its `]`, if it matches the character.
fn class(class: &[char], c: char) -> Option<usize> {
    let negated = class.first() == Some(&'^');
    let mut at = usize::from(negated);
    let first = at;
    let mut found = false;
    loop {
        let character = |at: usize| match class.get(at)? {
            '\\' => Some((*class.get(at + 1)?, at + 2)),
            '-' | ']' => None,
            other => Some((*other, at + 1)),
        };
        if class.get(at) == Some(&']') && at > first {
            return (found != negated && c != '/').then_some(at + 1);
        }
        let (low, next) = character(at)?;
        let (high, next) =
            if class.get(next) == Some(&'-') { character(next + 1)? } else { (low, next) };
        found |= (low..=high).contains(&c);
        at = next;
    }
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn patterns_match_as_go_s_do() {
        for (pattern, text, expected) in [
            ("app", "app", true),
            ("app", "apple", false),
            ("app*", "app:1.2", true),
            ("*", "a/b", false),
            ("*/*", "a/b", true),
            ("*b*", "abab", true),
            ("a*b*c", "aXbYbZc", true),
            ("a*b/c", "a/b/c", false),
            ("te?m/[a-c]pp", "team/app", true),
            ("[^a]pp", "app", false),
            ("[^x-z]pp", "app", true),
            ("[\\]a]b", "]b", true),
            ("[]a]b", "ab", false),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("[a", "a", false),
            ("a\\", "a", false),
            ("", "", true),
            ("", "a", false),
            ("**", "abc", true),
        ] {
            assert_eq!(matches(pattern, text), expected, "{pattern:?} on {text:?}");
        }
    }

    #[test]
    fn many_stars_take_no_longer() {
        assert!(!matches(&"*a".repeat(40), &"a".repeat(39)));
        assert!(!matches(&format!("{}b", "*a".repeat(2000)), &"a".repeat(4000)));
    }
}
