//! Days and times of day, in UTC.

use time::OffsetDateTime;

/// `2026-11-26`.
pub fn day(unix_time: f64) -> String {
    match calendar(unix_time) {
        Some(time) => time.date().to_string(),
        None => after_the_epoch(unix_time),
    }
}

/// `2026-11-26 03:02`.
pub fn minute(unix_time: f64) -> String {
    match calendar(unix_time) {
        Some(time) => format!("{} {:02}:{:02}", time.date(), time.hour(), time.minute()),
        None => after_the_epoch(unix_time),
    }
}

/// None of a time whose year has more than four digits.
fn calendar(unix_time: f64) -> Option<OffsetDateTime> {
    OffsetDateTime::from_unix_timestamp(unix_time.floor() as i64).ok()
}

fn after_the_epoch(unix_time: f64) -> String {
    format!("{unix_time} s after the epoch")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (time, text) in [
            (0.0, "1970-01-01 00:00"),
            (951_782_399.0, "2000-02-28 23:59"),
            (951_868_799.9, "2000-02-29 23:59"),
            (951_868_800.0, "2000-03-01 00:00"),
            (1_795_664_950.958, "2026-11-26 03:49"),
            (4_107_542_399.0, "2100-02-28 23:59"),
            (4_107_542_400.0, "2100-03-01 00:00"),
            (-0.5, "1969-12-31 23:59"),
            (1e15, "1000000000000000 s after the epoch"),
        ] {
            assert_eq!(minute(time), text);
        }
    }
}
