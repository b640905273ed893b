//! What is shown of times and of other people's text.

/// A message's text as it may be put on a terminal: one line, and nothing that moves the cursor,
/// changes colours or does worse.
pub(super) fn clean(bytes: &[u8]) -> String {
    let text = String::from_utf8_lossy(bytes);
    text.chars().map(|letter| if is_harmless(letter) { letter } else { '·' }).collect()
}

fn is_harmless(letter: char) -> bool {
    // Marks that reorder what stands around them can make a line read as somebody else's.
    let is_reordering = matches!(letter, '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}');
    !letter.is_control() && !is_reordering
}

const DAY_MILLIS: u64 = 86_400_000;

/// The time of day, UTC; with the date where that is not the day of `now_millis`. Both are
/// milliseconds since 1970.
pub(super) fn time(at_millis: u64, now_millis: u64) -> String {
    let minutes = at_millis % DAY_MILLIS / 60_000;
    let clock = format!("{:02}:{:02}", minutes / 60, minutes % 60);
    let day = at_millis / DAY_MILLIS;
    if day == now_millis / DAY_MILLIS {
        return clock;
    }
    let (year, month, day) = date(day);
    format!("{year}-{month:02}-{day:02} {clock}")
}

/// The date of a day counted from 1970-01-01. Years are counted from March, so that the odd day
/// of a leap year is the last of its year and every month before it has a fixed place.
fn date(days: u64) -> (u64, u64, u64) {
    const ERA_DAYS: u64 = 146_097; // of 400 years
    let days = days + 719_468; // from 0000-03-01
    let (era, day_of_era) = (days / ERA_DAYS, days % ERA_DAYS);
    let year_of_era =
        (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (era * 400 + year_of_era + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_that_steers_a_terminal_gets_through() {
        assert_eq!(clean(b"a\x1b[2Jb\r\nc\x07"), "a·[2Jb··c·");
        assert_eq!(clean("x\u{202e}y\u{9b}z".as_bytes()), "x·y·z");
        assert_eq!(clean("grüße 👋".as_bytes()), "grüße 👋");
        assert_eq!(clean(&[0xff]), "\u{fffd}");
    }

    #[test]
    fn days_are_where_the_calendar_has_them() {
        assert_eq!(date(0), (1970, 1, 1));
        assert_eq!(date(59), (1970, 3, 1));
        assert_eq!(date(11_016), (2000, 2, 29));
        assert_eq!(date(11_017), (2000, 3, 1));
        assert_eq!(date(19_675), (2023, 11, 14));
    }

    #[test]
    fn the_date_is_shown_where_it_is_not_today() {
        let at = 1_700_000_000_000;
        assert_eq!(time(at, at), "22:13");
        assert_eq!(time(at, at + DAY_MILLIS), "2023-11-14 22:13");
    }
}
