//! Days and times of day, in UTC, without a time zone's data.

/// `2026-11-26`.
pub fn day(unix_time: f64) -> String {
    let (year, month, day) = civil(unix_time);
    format!("{year:04}-{month:02}-{day:02}")
}

/// `2026-11-26 03:02`.
pub fn minute(unix_time: f64) -> String {
    let second = (unix_time as i64).rem_euclid(86_400);
    format!(
        "{} {:02}:{:02}",
        day(unix_time),
        second / 3600,
        second / 60 % 60
    )
}

/// Year, month and day. <https://howardhinnant.github.io/date_algorithms.html#civil_from_days>
fn civil(unix_time: f64) -> (i64, i64, i64) {
    let days = (unix_time as i64).div_euclid(86_400) + 719_468;
    let era = days.div_euclid(146_097);
    let day_of_era = days.rem_euclid(146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted + 2) / 5 + 1;
    let month = if shifted < 10 {
        shifted + 3
    } else {
        shifted - 9
    };
    let year = year_of_era + era * 400 + i64::from(month <= 2);
    (year, month, day)
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
        ] {
            assert_eq!(minute(time), text);
        }
    }
}
