//! Figures for people: bytes, rates, durations, counts.

use std::time::Duration;

/// A number of bytes in binary units, three significant digits or more: `512 B`, `1.50 KiB`, `23.4 MiB`.
#[must_use]
pub fn bytes(count: u64) -> String {
    const UNITS: [&str; 6] = ["KiB", "MiB", "GiB", "TiB", "PiB", "EiB"];
    if count < 1024 {
        return format!("{count} B");
    }
    let mut value = count as f64 / 1024.0;
    let mut unit = 0;
    // A figure that would be shown as 1024 of a unit is 1 of the next.
    while value >= 1023.95 && unit + 1 < UNITS.len() {
        value /= 1024.0;
        unit += 1;
    }
    let digits = if value < 9.995 { 2 } else { 1 };
    format!("{value:.digits$} {}", UNITS[unit])
}

/// A slope in bytes a second, with its sign; `0 B/s` within half a byte of nothing.
#[must_use]
pub fn bytes_per_s(slope: f64) -> String {
    #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "rounded and not negative")]
    let amount = slope.abs().round() as u64;
    let sign = match amount {
        0 => "",
        _ if slope < 0.0 => "-",
        _ => "+",
    };
    format!("{sign}{}/s", bytes(amount))
}

/// A count with separators: `12,345`.
#[must_use]
pub fn count(number: u64) -> String {
    let digits = number.to_string();
    let mut grouped = String::with_capacity(digits.len() * 4 / 3);
    for (index, digit) in digits.chars().enumerate() {
        if index > 0 && (digits.len() - index).is_multiple_of(3) {
            grouped.push(',');
        }
        grouped.push(digit);
    }
    grouped
}

/// A number of processes in words: `1 process`, `12 processes`.
#[must_use]
pub fn processes(number: u64) -> String {
    format!("{} process{}", count(number), if number == 1 { "" } else { "es" })
}

/// A duration in its two largest units, or in tenths of a second below a minute.
#[must_use]
pub fn duration(duration: Duration) -> String {
    let seconds = duration.as_secs();
    match seconds {
        0 if duration.as_millis() < 100 && !duration.is_zero() => format!("{} ms", duration.as_millis()),
        0..60 => format!("{:.1} s", duration.as_secs_f64()),
        60..3600 => format!("{} min {} s", seconds / 60, seconds % 60),
        _ => format!("{} h {} min", seconds / 3600, seconds / 60 % 60),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_keep_three_digits_and_cross_units_cleanly() {
        let shown = [0, 1023, 1024, 1536, 10 * 1024, 1024 * 1024 - 1, 1024 * 1024, u64::MAX].map(bytes);
        assert_eq!(shown, ["0 B", "1023 B", "1.00 KiB", "1.50 KiB", "10.0 KiB", "1.00 MiB", "1.00 MiB", "16.0 EiB"]);
    }

    #[test]
    fn slopes_have_a_sign_unless_they_are_nothing() {
        assert_eq!([1536.0, -2048.0, 0.4, -0.4].map(bytes_per_s), ["+1.50 KiB/s", "-2.00 KiB/s", "0 B/s", "0 B/s"]);
    }

    #[test]
    fn counts_are_grouped_by_thousands() {
        assert_eq!([0, 999, 1000, 1_234_567].map(count), ["0", "999", "1,000", "1,234,567"]);
        assert_eq!([1, 1234].map(processes), ["1 process", "1,234 processes"]);
    }

    #[test]
    fn durations_are_read_at_a_glance() {
        let shown = [500, 61_000, 3_725_000].map(|ms| duration(Duration::from_millis(ms)));
        assert_eq!(shown, ["0.5 s", "1 min 1 s", "1 h 2 min"]);
    }
}
