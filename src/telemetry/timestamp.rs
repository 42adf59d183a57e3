//! Moments as text. One is written for every token, so this neither allocates nor asks for a time zone.

use std::time::{SystemTime, UNIX_EPOCH};

const LENGTH: usize = "2026-01-02T03:04:05.123456".len();

/// A moment in UTC as RFC 3339 with microseconds. Six digits, because Python before 3.11 reads no more (ollama-api §13.17).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Timestamp {
    text: [u8; LENGTH + 6],
    /// Seconds since 1970, without their fraction.
    second: u64,
}

impl Timestamp {
    /// This moment.
    #[must_use]
    pub fn now() -> Self {
        Self::of(SystemTime::now())
    }

    /// Any moment between the years 1970 and 9999; what lies before is shown as 1970.
    #[must_use]
    pub fn of(time: SystemTime) -> Self {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        let seconds = since.as_secs();
        let (year, month, day) = date(seconds / 86_400);
        let mut text = *b"0000-00-00T00:00:00.000000+00:00";
        digits(&mut text[0..4], year);
        digits(&mut text[5..7], month);
        digits(&mut text[8..10], day);
        digits(&mut text[11..13], seconds / 3600 % 24);
        digits(&mut text[14..16], seconds / 60 % 60);
        digits(&mut text[17..19], seconds % 60);
        digits(&mut text[20..26], u64::from(since.subsec_micros()));
        Self { text, second: seconds }
    }

    /// Makes it another moment; within the same second that costs a third of writing it anew.
    pub fn move_to(&mut self, time: SystemTime) {
        let since = time.duration_since(UNIX_EPOCH).unwrap_or_default();
        if since.as_secs() == self.second {
            digits(&mut self.text[20..26], u64::from(since.subsec_micros()));
        } else {
            *self = Self::of(time);
        }
    }

    /// Ends in `Z`, e.g. `2026-01-02T03:04:05.123456Z`: Ollama's `created_at`.
    #[must_use]
    pub fn zulu(&self) -> [u8; LENGTH + 1] {
        let mut text = [b'Z'; LENGTH + 1];
        text[..LENGTH].copy_from_slice(&self.text[..LENGTH]);
        text
    }

    /// Ends in `+00:00`: Ollama's `modified_at` and `expires_at`, which some clients read with old Python.
    #[must_use]
    pub fn as_str(&self) -> &str {
        // Only ASCII was ever written into it.
        std::str::from_utf8(&self.text).unwrap_or_default()
    }
}

impl std::fmt::Display for Timestamp {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str(self.as_str())
    }
}

impl serde::Serialize for Timestamp {
    fn serialize<S: serde::Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(self.as_str())
    }
}

fn digits(field: &mut [u8], mut number: u64) {
    for place in field.iter_mut().rev() {
        *place = b'0' + u8::try_from(number % 10).unwrap_or(0);
        number /= 10;
    }
}

/// Year, month and day of a number of days after 1970-01-01, in the Gregorian calendar.
fn date(days: u64) -> (u64, u64, u64) {
    // Counted from 1 March of the year 0, so that the leap day is the last day of a year.
    let days = days + 719_468;
    let (era, day_of_era) = (days / 146_097, days % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let shifted_month = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * shifted_month + 2) / 5 + 1;
    let month = if shifted_month < 10 { shifted_month + 3 } else { shifted_month - 9 };
    let year = era * 400 + year_of_era + u64::from(month <= 2);
    (year, month, day)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn moments_are_written_as_rfc_3339() {
        for (seconds, micros, text) in [
            (0, 0, "1970-01-01T00:00:00.000000+00:00"),
            (951_782_399, 999_999, "2000-02-28T23:59:59.999999+00:00"),
            (951_782_400, 1, "2000-02-29T00:00:00.000001+00:00"),
            (1_772_323_200, 0, "2026-03-01T00:00:00.000000+00:00"),
            (1_795_402_734, 441_519, "2026-11-23T02:58:54.441519+00:00"),
            (4_107_542_399, 0, "2100-02-28T23:59:59.000000+00:00"),
            (4_107_542_400, 0, "2100-03-01T00:00:00.000000+00:00"),
        ] {
            let time = UNIX_EPOCH + Duration::from_secs(seconds) + Duration::from_micros(micros);
            assert_eq!(Timestamp::of(time).as_str(), text);
        }
    }

    #[test]
    fn a_moved_moment_is_the_same_as_a_new_one() {
        let mut moved = Timestamp::of(UNIX_EPOCH);
        for micros in [1, 999_999, 1_000_000, 1_999_999, 86_400_000_000, 5, 0] {
            let time = UNIX_EPOCH + Duration::from_micros(micros);
            moved.move_to(time);
            assert_eq!(moved, Timestamp::of(time));
        }
    }

    #[test]
    fn zulu_time_ends_in_z() {
        assert_eq!(&Timestamp::of(UNIX_EPOCH).zulu(), b"1970-01-01T00:00:00.000000Z");
    }
}
