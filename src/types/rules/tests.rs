use proptest::prelude::*;

use super::*;
use crate::types::{Fen, Violations, beijing_date, beijing_midnight};

const BUILTIN: &str = include_str!("../../../seeds/rules.toml");

fn at(text: &str) -> Timestamp {
    text.parse().expect("a timestamp")
}

fn event(scheme: &str, code: &str) -> EventType {
    EventType::check(&mut Violations::new(), scheme, code).expect("an event type")
}

fn losses(deaths: u32, serious_injuries: u32, loss_fen: i64) -> AccidentLosses {
    let direct_loss = Fen::try_from(loss_fen).expect("an amount");
    AccidentLosses {
        deaths,
        serious_injuries,
        direct_loss,
    }
}

#[test]
fn each_threshold_includes_its_own_number() {
    use AccidentGrade::{EspeciallyMajor, Larger, Major, Ordinary};
    let rules = RuleTable::builtin();
    let grade = |d, i, l| rules.grade(&losses(d, i, l), at("2024-02-18T08:00:00Z"));
    for (below, from, under, reached) in [
        (2, 3, Ordinary, Larger),
        (9, 10, Larger, Major),
        (29, 30, Major, EspeciallyMajor),
    ] {
        assert_eq!((grade(below, 0, 0), grade(from, 0, 0)), (under, reached));
    }
    for (below, from, under, reached) in [
        (9, 10, Ordinary, Larger),
        (49, 50, Larger, Major),
        (99, 100, Major, EspeciallyMajor),
    ] {
        assert_eq!((grade(0, below, 0), grade(0, from, 0)), (under, reached));
    }
    for (from, under, reached) in [
        (1_000_000_000, Ordinary, Larger),
        (5_000_000_000, Larger, Major),
        (10_000_000_000, Major, EspeciallyMajor),
    ] {
        assert_eq!((grade(0, 0, from - 1), grade(0, 0, from)), (under, reached));
    }
    assert_eq!(grade(0, 0, 0), Ordinary);
    assert_eq!(grade(3, 50, 0), Major);
    assert_eq!(grade(u32::MAX, 0, 0), EspeciallyMajor);
}

#[test]
fn graver_accidents_are_reported_higher() {
    let rules = RuleTable::builtin();
    let grades = rules.grades(at("2024-02-18T08:00:00Z"));
    let up_to = AccidentGrade::ALL.map(|g| grades.rules.report_up_to(g));
    use Authority::{City, Province, StateCouncil};
    assert_eq!(up_to, [City, Province, StateCouncil, StateCouncil]);
    assert_eq!(grades.label(), "国务院令第493号第三条, 2007-06-01");
}

#[test]
fn each_hop_has_its_own_clock() {
    let rules = RuleTable::builtin();
    let clocks = rules.clocks(at("2024-02-18T08:00:00Z")).rules;
    let start = at("2024-02-18T08:00:00Z");
    assert_eq!(clocks.authority_deadline(start), at("2024-02-18T09:00:00Z"));
    assert_eq!(clocks.forward_deadline(start), at("2024-02-18T10:00:00Z"));
    assert_eq!(clocks.forward_deadline(Timestamp::MAX), Timestamp::MAX);
}

#[test]
fn corrections_end_with_a_day_in_beijing() {
    let rules = RuleTable::builtin();
    let deadline = |event: &EventType, occurred| rules.correction_deadline(event, at(occurred));
    let gb = "GB/T 35561-2017";
    let other = event(gb, "12D01");
    // 23:59 of 18 February in Beijing, and one minute later.
    assert_eq!(
        deadline(&other, "2024-02-18T15:59:00Z"),
        at("2024-03-20T00:00:00+08:00")
    );
    assert_eq!(
        deadline(&other, "2024-02-18T16:00:00Z"),
        at("2024-03-21T00:00:00+08:00")
    );
    for code in ["12G00", "12H00", "12H"] {
        let short = event(gb, code);
        assert_eq!(
            deadline(&short, "2024-02-18T15:59:00Z"),
            at("2024-02-26T00:00:00+08:00")
        );
    }
    let elsewhere = event("hefu-sample", "12G00");
    assert_eq!(
        deadline(&elsewhere, "2024-02-18T15:59:00Z"),
        at("2024-03-20T00:00:00+08:00")
    );
}

#[test]
fn the_day_of_the_accident_can_be_the_first() {
    let text = BUILTIN.replace(
        "day_of_accident_counts = false",
        "day_of_accident_counts = true",
    );
    let rules = RuleTable::from_toml(&text).expect("rules");
    let deadline = rules.correction_deadline(&event("x", "A1"), at("2024-02-18T08:00:00+08:00"));
    assert_eq!(deadline, at("2024-03-19T00:00:00+08:00"));
}

/// The built-in rules with a later edition of the clocks.
fn with_second_clock(first_end: &str, second: &str) -> String {
    let end = format!("第十一条\"\n{first_end}\n");
    BUILTIN.replace("第十一条\"\n", &end)
        + "\n[[reporting_clocks]]\nsource = \"修订版\"\n"
        + second
        + "\n[reporting_clocks.rules]\nunit_to_authority_minutes = 30\nauthority_to_next_level_minutes = 90\n"
}

#[test]
fn an_accident_keeps_the_rules_of_its_day() {
    for end in ["", "valid_to = \"2026-01-01\""] {
        let text = with_second_clock(end, "valid_from = \"2026-01-01\"");
        let rules = RuleTable::from_toml(&text).expect("rules");
        let minutes = |occurred| rules.clocks(at(occurred)).rules.unit_to_authority_minutes;
        assert_eq!(minutes("2025-12-31T23:59:59+08:00"), 60);
        assert_eq!(minutes("2026-01-01T00:00:00+08:00"), 30);
        assert_eq!(minutes("1999-01-01T00:00:00+08:00"), 60);
    }
}

#[test]
#[expect(clippy::too_many_lines, reason = "a table of cases")]
fn wrong_tables_are_refused_by_line_and_key() {
    let error = |text: &str| RuleTable::from_toml(text).expect_err("refused").to_string();
    let changed = |from: &str, to: &str| {
        assert!(BUILTIN.contains(from), "{from}");
        error(&BUILTIN.replacen(from, to, 1))
    };
    let line = |of: &str| BUILTIN.lines().position(|l| l == of).expect("a line") + 1;
    let grades = line("[[accident_grades]]");
    let clocks = line("[[reporting_clocks]]");
    let windows = line("[[correction_windows]]");
    let deaths = line("deaths = 3");
    for (error, expected) in [
        (
            changed("deaths = 3\n", "deaths = \"3\"\n"),
            format!("line {deaths}: invalid type"),
        ),
        (
            changed("deaths = 3\n", "dead = 3\n"),
            format!("line {deaths}: unknown field `dead`"),
        ),
        (
            changed("deaths = 3\n", "deaths = -3\n"),
            format!("line {deaths}: invalid value"),
        ),
        (
            changed("deaths = 3\n", "deaths =\n"),
            format!("line {deaths}: "),
        ),
        (
            changed("deaths = 3\n", "deaths = 0\n"),
            format!("line {grades}, accident_grades.rules.larger:"),
        ),
        (
            changed("deaths = 3\n", "deaths = 10\n"),
            format!("line {grades}, accident_grades.rules.major:"),
        ),
        (
            changed("deaths = 10\n", "deaths = 30\n"),
            format!("line {grades}, accident_grades.rules.especially_major:"),
        ),
        (
            changed("authority_minutes = 60", "authority_minutes = 0"),
            format!("line {clocks}, reporting_clocks.rules.unit_to_authority_minutes: is 0"),
        ),
        (
            changed("short_days = 7", "short_days = 367"),
            format!("line {windows}, correction_windows.rules.short_days: is 367"),
        ),
        (
            changed("prefix = \"12G\"", "prefix = \"\""),
            format!("line {windows}, correction_windows.rules.short_types:"),
        ),
        (
            changed("\"国务院令第493号第三条\"", "\" \""),
            format!("line {grades}, accident_grades.source:"),
        ),
        (
            changed("valid_from = \"2007-06-01\"", "valid_from = \"2007-06-31\""),
            format!("line {}: ", line("valid_from = \"2007-06-01\"")),
        ),
        (
            error(&with_second_clock("", "valid_from = \"2007-06-01\"")),
            "reporting_clocks.valid_from: must be after 2007-06-01".to_owned(),
        ),
        (
            error(&with_second_clock(
                "valid_to = \"2025-01-01\"",
                "valid_from = \"2026-01-01\"",
            )),
            format!("line {clocks}, reporting_clocks.valid_to: must be 2026-01-01"),
        ),
        (
            changed("第十一条\"", "第十一条\"\nvalid_to = \"2026-01-01\""),
            format!("line {clocks}, reporting_clocks.valid_to: must be left out"),
        ),
        (error(""), "accident_grades has no edition".to_owned()),
        (error("x = 1"), "line 1: unknown field `x`".to_owned()),
    ] {
        assert!(error.contains(&expected), "{error}\n{expected}");
    }
}

proptest! {
    #[test]
    fn the_grade_is_the_worst_of_the_three(d in 0_u32..40, i in 0_u32..120, l in 0_i64..12_000_000_000) {
        let rules = RuleTable::builtin();
        let grade = |losses| rules.grade(&losses, at("2024-02-18T08:00:00Z"));
        let each = [losses(d, 0, 0), losses(0, i, 0), losses(0, 0, l)].map(grade);
        prop_assert_eq!(Some(grade(losses(d, i, l))), each.into_iter().max());
    }

    #[test]
    fn a_deadline_is_a_midnight_after_the_accident(seconds in 0_i64..4_000_000_000) {
        let rules = RuleTable::builtin();
        let occurred = Timestamp::from_second(seconds).expect("in range");
        let deadline = rules.correction_deadline(&event("x", "A"), occurred);
        let days = SignedDuration::from_hours(24);
        prop_assert_eq!(beijing_midnight(beijing_date(deadline)), deadline);
        let length = deadline.duration_since(occurred);
        prop_assert!(length > days * 30 && length <= days * 31);
    }

    #[test]
    fn no_text_makes_loading_panic(text in "\\PC{0,80}") {
        prop_assert!(RuleTable::from_toml(&text).is_err());
    }
}
