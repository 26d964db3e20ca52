//! The date, for templates that print today's.

use std::time::{SystemTime, UNIX_EPOCH};

const MONTHS: [&str; 12] = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
];
/// The first day of 1970 was a Thursday.
const WEEKDAYS: [&str; 7] = ["Thursday", "Friday", "Saturday", "Sunday", "Monday", "Tuesday", "Wednesday"];

/// Writes `time` in UTC after a `strftime` format. It knows the directives that templates use for dates and times:
/// `%Y %y %m %B %b %d %A %a %j %H %I %M %S %p %%`; another is an error.
pub(crate) fn strftime(time: SystemTime, format: &str) -> Result<String, String> {
    let seconds = time.duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let days = seconds / 86_400;
    let (hour, minute, second) = (seconds / 3600 % 24, seconds / 60 % 60, seconds % 60);
    let (year, month, day, day_of_year) = date_of(days);
    let month_name = MONTHS[month - 1];
    let weekday = WEEKDAYS[(days % 7) as usize];

    let mut out = String::new();
    let mut characters = format.chars();
    while let Some(character) = characters.next() {
        if character != '%' {
            out.push(character);
            continue;
        }
        let text = match characters.next() {
            Some('Y') => year.to_string(),
            Some('y') => format!("{:02}", year % 100),
            Some('m') => format!("{month:02}"),
            Some('B') => month_name.to_owned(),
            Some('b') => month_name[..3].to_owned(),
            Some('d') => format!("{day:02}"),
            Some('A') => weekday.to_owned(),
            Some('a') => weekday[..3].to_owned(),
            Some('j') => format!("{day_of_year:03}"),
            Some('H') => format!("{hour:02}"),
            Some('I') => format!("{:02}", (hour + 11) % 12 + 1),
            Some('M') => format!("{minute:02}"),
            Some('S') => format!("{second:02}"),
            Some('p') => if hour < 12 { "AM" } else { "PM" }.to_owned(),
            Some('%') => "%".to_owned(),
            Some(other) => return Err(format!("strftime_now does not know %{other}")),
            None => return Err("strftime_now: the format ends with a lone %".to_owned()),
        };
        out.push_str(&text);
    }
    Ok(out)
}

/// Year, month and day (from 1) and day of the year (from 1) of a day counted from 1 January 1970.
fn date_of(mut days: u64) -> (u64, usize, u64, u64) {
    let is_leap = |year: u64| year.is_multiple_of(4) && (!year.is_multiple_of(100) || year.is_multiple_of(400));
    let mut year = 1970;
    loop {
        let length = if is_leap(year) { 366 } else { 365 };
        if days < length {
            break;
        }
        days -= length;
        year += 1;
    }
    let day_of_year = days + 1;
    let february = if is_leap(year) { 29 } else { 28 };
    let mut month = 1;
    for length in [31, february, 31, 30, 31, 30, 31, 31, 30, 31, 30, 31] {
        if days < length {
            break;
        }
        days -= length;
        month += 1;
    }
    (year, month, days + 1, day_of_year)
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    /// Each line was written by Python: `datetime.fromtimestamp(seconds, timezone.utc).strftime(format)`.
    #[test]
    fn dates() {
        let everything = "%Y %y %m %B %b %d %A %a %j %H %I %M %S %p %%";
        let cases = [
            (0, everything, "1970 70 01 January Jan 01 Thursday Thu 001 00 12 00 00 AM %"),
            (951_827_696, everything, "2000 00 02 February Feb 29 Tuesday Tue 060 12 12 34 56 PM %"),
            (1_735_689_599, everything, "2024 24 12 December Dec 31 Tuesday Tue 366 23 11 59 59 PM %"),
            (1_740_787_200, "%d %b %Y", "01 Mar 2025"),
            (4_107_542_400, "%Y-%m-%d", "2100-03-01"),
        ];
        for (seconds, format, expected) in cases {
            let time = UNIX_EPOCH + Duration::from_secs(seconds);
            assert_eq!(strftime(time, format).as_deref(), Ok(expected));
        }
        assert_eq!(strftime(UNIX_EPOCH, "%Q").unwrap_err(), "strftime_now does not know %Q");
        assert_eq!(strftime(UNIX_EPOCH, "%").unwrap_err(), "strftime_now: the format ends with a lone %");
    }
}
