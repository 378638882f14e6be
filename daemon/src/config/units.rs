//! Byte sizes and durations as people write them. On the way from the configuration file and the command line to the
//! numbers everything else is given: whoever reads `16 MiB` or `200ms` reads it here.

use std::time::Duration;

const SIZES: &[(&str, u64)] = &[
    ("B", 1),
    ("KiB", 1 << 10),
    ("MiB", 1 << 20),
    ("GiB", 1 << 30),
    ("TiB", 1 << 40),
    ("kB", 1_000),
    ("MB", 1_000_000),
    ("GB", 1_000_000_000),
    ("TB", 1_000_000_000_000),
];

const TIMES_MS: &[(&str, u64)] = &[
    ("ms", 1),
    ("s", 1_000),
    ("min", 60_000),
    ("m", 60_000),
    ("h", 3_600_000),
    ("d", 86_400_000),
];

/// Reads a byte size: a whole number and a unit (`16 MiB`, `64KiB`, `1 GB`), or bytes without one. `KiB`, `MiB`, `GiB`
/// and `TiB` are powers of 1024; `kB`, `MB`, `GB` and `TB` of 1000. `None` for anything else.
#[must_use]
pub fn parse_bytes(text: &str) -> Option<u64> {
    let (number, unit) = split_number(text.trim())?;
    let factor = if unit.is_empty() {
        1
    } else {
        factor(SIZES, unit)?
    };
    number.checked_mul(factor)
}

/// Reads a rate in bytes a second: a byte size, with or without `/s` after it.
#[must_use]
pub fn parse_rate(text: &str) -> Option<u64> {
    let text = text.trim();
    parse_bytes(text.strip_suffix("/s").unwrap_or(text)).filter(|&rate| rate > 0)
}

/// Reads a duration: whole numbers with their units, largest first or not (`200ms`, `1s`, `1h 30min`, `7d`). A number
/// without a unit is `None`: seconds and milliseconds are too easily confused.
#[must_use]
pub fn parse_duration(text: &str) -> Option<Duration> {
    let mut rest = text.trim();
    let mut total_ms = 0_u64;
    if rest.is_empty() {
        return None;
    }
    while !rest.is_empty() {
        let (number, tail) = split_number(rest)?;
        let unit_end = tail
            .find(|c: char| !c.is_ascii_alphabetic())
            .unwrap_or(tail.len());
        let (unit, tail) = tail.split_at(unit_end);
        total_ms = total_ms.checked_add(number.checked_mul(factor(TIMES_MS, unit)?)?)?;
        rest = tail.trim_start();
    }
    Some(Duration::from_millis(total_ms))
}

/// Writes bytes for people: `512 B`, `16.0 MiB`.
#[must_use]
pub fn show_bytes(bytes: u64) -> String {
    let unit = SIZES[1..5]
        .iter()
        .rev()
        .find(|(_, factor)| bytes >= *factor);
    match unit {
        None => format!("{bytes} B"),
        Some((name, factor)) => format!("{:.1} {name}", bytes as f64 / *factor as f64),
    }
}

/// Writes a duration for people, in its two largest units: `3d 4h`, `1min 5s`, `12s`, `250ms`.
#[must_use]
pub fn show_duration(duration: Duration) -> String {
    let mut left_ms = u64::try_from(duration.as_millis()).unwrap_or(u64::MAX);
    let mut parts = Vec::new();
    for (name, factor) in [
        ("d", 86_400_000),
        ("h", 3_600_000),
        ("min", 60_000),
        ("s", 1_000),
    ] {
        let count = left_ms / factor;
        left_ms %= factor;
        if count > 0 {
            parts.push(format!("{count}{name}"));
        } else if !parts.is_empty() {
            break;
        }
        if parts.len() == 2 {
            break;
        }
    }
    if parts.is_empty() {
        return format!("{left_ms}ms");
    }
    parts.join(" ")
}

fn split_number(text: &str) -> Option<(u64, &str)> {
    let digits = text
        .find(|c: char| !c.is_ascii_digit())
        .unwrap_or(text.len());
    let (number, tail) = text.split_at(digits);
    Some((number.parse().ok()?, tail.trim_start()))
}

fn factor(units: &[(&str, u64)], unit: &str) -> Option<u64> {
    let exact = units.iter().find(|(name, _)| *name == unit);
    exact.map(|(_, factor)| *factor)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_are_read_with_and_without_a_unit() {
        assert_eq!(parse_bytes("16 MiB"), Some(16 << 20));
        assert_eq!(parse_bytes(" 64KiB "), Some(64 << 10));
        assert_eq!(parse_bytes("1 GB"), Some(1_000_000_000));
        assert_eq!(parse_bytes("512"), Some(512));
        assert_eq!(parse_rate("20 MiB/s"), Some(20 << 20));
        assert_eq!(parse_rate("20 MiB"), Some(20 << 20));
    }

    #[test]
    fn what_is_not_a_size_is_refused() {
        for wrong in [
            "",
            "MiB",
            "-1",
            "1.5 MiB",
            "16 mib",
            "16 M",
            "16 MiB x",
            "99999999999 TiB",
        ] {
            assert_eq!(parse_bytes(wrong), None, "{wrong}");
        }
        assert_eq!(parse_rate("0"), None);
    }

    #[test]
    fn durations_are_read_with_one_unit_or_several() {
        assert_eq!(parse_duration("200ms"), Some(Duration::from_millis(200)));
        assert_eq!(parse_duration("1s"), Some(Duration::from_secs(1)));
        assert_eq!(parse_duration("1h 30min"), Some(Duration::from_secs(5400)));
        assert_eq!(parse_duration("2m5s"), Some(Duration::from_secs(125)));
        assert_eq!(parse_duration("7 d"), Some(Duration::from_secs(604_800)));
    }

    #[test]
    fn what_is_not_a_duration_is_refused() {
        for wrong in [
            "",
            "1",
            "s",
            "1.5s",
            "1 fortnight",
            "-1s",
            "1s,",
            "99999999999999d",
        ] {
            assert_eq!(parse_duration(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn what_is_shown_is_short() {
        assert_eq!(show_bytes(512), "512 B");
        assert_eq!(show_bytes(16 << 20), "16.0 MiB");
        assert_eq!(show_bytes(3 << 40), "3.0 TiB");
        assert_eq!(show_duration(Duration::from_millis(250)), "250ms");
        assert_eq!(show_duration(Duration::from_secs(65)), "1min 5s");
        assert_eq!(show_duration(Duration::from_secs(273_661)), "3d 4h");
        assert_eq!(show_duration(Duration::from_secs(86_400)), "1d");
    }
}
