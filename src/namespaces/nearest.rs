//! "Did you mean": the known name closest to a misspelt one.

/// The candidate that takes the fewest single-character edits to reach from `input`, if those are at
/// most two, or a third of its length, and do not replace the whole.
pub(crate) fn nearest<'a>(
    input: &str,
    candidates: impl IntoIterator<Item = &'a str>,
) -> Option<&'a str> {
    // Names from outside may be of any length, and the comparison is quadratic.
    if input.len() > 64 {
        return None;
    }
    candidates
        .into_iter()
        .map(|name| (edit_distance(input.as_bytes(), name.as_bytes()), name))
        .min()
        .filter(|(distance, name)| {
            *distance <= (name.len() / 3).max(2) && *distance < name.len().min(input.len())
        })
        .map(|(_, name)| name)
}

/// Levenshtein distance with a single row, ignoring ASCII case.
fn edit_distance(a: &[u8], b: &[u8]) -> usize {
    let mut row: Vec<usize> = (0..=b.len()).collect();
    for (i, x) in a.iter().enumerate() {
        let mut diagonal = i;
        row[0] = i + 1;
        for (j, y) in b.iter().enumerate() {
            let substitution = diagonal + usize::from(!x.eq_ignore_ascii_case(y));
            diagonal = row[j + 1];
            row[j + 1] = substitution.min(diagonal + 1).min(row[j] + 1);
        }
    }
    row[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn suggests_only_what_is_close() {
        let names = ["CAP_NET_RAW", "CAP_NET_ADMIN", "CAP_KILL"];
        for (input, expected) in [
            ("CAP_NET_ROW", Some("CAP_NET_RAW")),
            ("cap_net_admn", Some("CAP_NET_ADMIN")),
            ("CAP_KIL", Some("CAP_KILL")),
            ("CAP_KLIL", Some("CAP_KILL")),
            ("potato", None),
            ("", None),
        ] {
            assert_eq!(nearest(input, names), expected, "{input:?}");
        }
        assert_eq!(nearest(&"CAP_KILL".repeat(9000), names), None);
    }
}
