//! Amounts of memory and numbers as docker's options have them.

/// `64m` is 64 MiB: a number, perhaps with a fraction, and b, k, m, g, t or p, with or without a b or ib behind it.
pub fn bytes(text: &str) -> Result<u64, String> {
    let invalid = || format!("{text:?} is no size: 64m, 1.5g and 4096 are");
    let lower = text.trim().to_ascii_lowercase();
    let digits = lower.find(|c: char| !c.is_ascii_digit() && c != '.').unwrap_or(lower.len());
    let (number, unit) = lower.split_at(digits);
    let unit = unit.trim();
    let exponent = match unit.strip_suffix("ib").or_else(|| unit.strip_suffix('b')).unwrap_or(unit)
    {
        "" if unit != "ib" => 0,
        "k" => 1,
        "m" => 2,
        "g" => 3,
        "t" => 4,
        "p" => 5,
        _ => return Err(invalid()),
    };
    if let Ok(whole) = number.parse::<u64>() {
        return whole.checked_mul(1 << (10 * exponent)).ok_or_else(invalid);
    }
    let number: f64 = number.parse().map_err(|_| invalid())?;
    let bytes = number * f64::from(1024_u32).powi(exponent);
    #[allow(
        clippy::cast_precision_loss,
        clippy::cast_possible_truncation,
        clippy::cast_sign_loss,
        reason = "it has no sign, and its range was checked"
    )]
    match bytes < u64::MAX as f64 {
        true => Ok(bytes as u64),
        false => Err(invalid()),
    }
}

/// A size, or -1 for no limit.
pub fn bytes_or_unlimited(text: &str) -> Result<u64, String> {
    if text == "-1" { Ok(u64::MAX) } else { bytes(text) }
}

/// A count, or -1 or 0 for no limit.
pub fn count_or_unlimited(text: &str) -> Result<u64, String> {
    match text {
        "-1" | "0" => Ok(u64::MAX),
        _ => text.parse().map_err(|_| format!("{text:?} is no number of processes")),
    }
}

/// Shares of docker, 2 to 262144, of which a group has 1024 that says nothing, as a weight, of which it has 100.
pub fn cpu_weight(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(shares @ 2..=262_144) => Ok((shares * 100).div_ceil(1024).min(10_000)),
        _ => Err(format!("{text:?} is no share of cpu time: 2 to 262144 are")),
    }
}

/// A weight of docker's, 10 to 1000, of which a group has 500 that says nothing, as one of which it has 100.
pub fn io_weight(text: &str) -> Result<u64, String> {
    match text.parse::<u64>() {
        Ok(weight @ 10..=1000) => Ok(weight / 5),
        _ => Err(format!("{text:?} is no share of disk time: 10 to 1000 are")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_in_dockers_units() {
        for (text, expected) in [
            ("0", 0),
            ("4096", 4096),
            ("1b", 1),
            ("2k", 2048),
            ("2KB", 2048),
            ("64m", 64 << 20),
            ("64MiB", 64 << 20),
            ("1.5g", 3 << 29),
            (" 1 T ", 1 << 40),
            ("15p", 15 << 50),
        ] {
            assert_eq!(bytes(text), Ok(expected), "{text}");
        }
        for wrong in ["", "m", "-1", "1x", "1mm", "1ib", "1.2.3m", "99999999p", "1e3", "inf", "nan"]
        {
            assert!(bytes(wrong).is_err(), "{wrong}");
        }
        assert_eq!(bytes_or_unlimited("-1"), Ok(u64::MAX));
    }

    #[test]
    fn shares_keep_their_proportion_to_what_others_have() {
        assert_eq!(cpu_weight("1024"), Ok(100));
        assert_eq!(cpu_weight("512"), Ok(50));
        assert_eq!(cpu_weight("2"), Ok(1));
        assert_eq!(cpu_weight("262144"), Ok(10_000));
        assert_eq!(io_weight("500"), Ok(100));
        for wrong in ["", "0", "1", "262145", "-5", "many"] {
            assert!(cpu_weight(wrong).is_err() && io_weight(wrong).is_err(), "{wrong}");
        }
    }
}
