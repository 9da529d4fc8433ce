//! A period, the one before, and the same a year before.

use std::ops::RangeInclusive;

use jiff::{ToSpan as _, civil::Date};

type Days = RangeInclusive<Date>;

/// Three periods that are compared.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Periods {
    /// What was asked for.
    pub days: Days,
    /// The period before: as many whole months, or as many days.
    pub before: Days,
    /// The same days a year earlier.
    pub year_before: Days,
}

impl Periods {
    /// Those of some days.
    pub fn of(asked: &Days) -> Self {
        let (from, to) = (*asked.start(), *asked.end());
        let whole = from.day() == 1 && to == to.last_of_month();
        let start = if whole {
            let months = |day: Date| i32::from(day.year()) * 12 + i32::from(day.month());
            from.saturating_sub((months(to) - months(from) + 1).months())
        } else {
            from.saturating_sub(days(asked).days())
        };
        let year = 1.year();
        let last = to.saturating_sub(year);
        // A February that was asked for whole is compared with a whole one.
        let last = if whole { last.last_of_month() } else { last };
        Self {
            days: asked.clone(),
            before: start..=from.saturating_sub(1.day()),
            year_before: from.saturating_sub(year)..=last,
        }
    }

    /// The three, in order.
    pub fn all(&self) -> [Days; 3] {
        [
            self.days.clone(),
            self.before.clone(),
            self.year_before.clone(),
        ]
    }
}

/// How many days it has.
pub(super) fn days(days: &Days) -> i32 {
    let hours = days.end().duration_since(*days.start()).as_hours();
    i32::try_from(hours / 24 + 1).unwrap_or(i32::MAX)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn range(text: &str) -> Days {
        let (from, to) = text.split_once(' ').unwrap();
        from.parse().unwrap()..=to.parse().unwrap()
    }

    #[test]
    fn months_are_compared_with_months_and_days_with_days() {
        for (asked, before, year) in [
            (
                "2024-02-01 2024-02-29",
                "2024-01-01 2024-01-31",
                "2023-02-01 2023-02-28",
            ),
            (
                "2023-02-01 2023-02-28",
                "2023-01-01 2023-01-31",
                "2022-02-01 2022-02-28",
            ),
            (
                "2025-02-01 2025-02-28",
                "2025-01-01 2025-01-31",
                "2024-02-01 2024-02-29",
            ),
            (
                "2024-04-01 2024-06-30",
                "2024-01-01 2024-03-31",
                "2023-04-01 2023-06-30",
            ),
            (
                "2024-01-01 2024-12-31",
                "2023-01-01 2023-12-31",
                "2023-01-01 2023-12-31",
            ),
            (
                "2024-03-05 2024-03-06",
                "2024-03-03 2024-03-04",
                "2023-03-05 2023-03-06",
            ),
            (
                "2024-02-29 2024-02-29",
                "2024-02-28 2024-02-28",
                "2023-02-28 2023-02-28",
            ),
        ] {
            let periods = Periods::of(&range(asked));
            assert_eq!(periods.before, range(before), "{asked}");
            assert_eq!(periods.year_before, range(year), "{asked}");
        }
    }
}
