//! Generators of valid values for property tests.

use proptest::prelude::*;

/// Valid citizen identity numbers (GB 11643), computed here independently of the code under test.
pub fn identity_number() -> impl Strategy<Value = String> {
    (
        110_000_u32..660_000,
        1900_u32..2100,
        1_u32..=12,
        1_u32..=28,
        0_u32..1000,
    )
        .prop_map(|(area, year, month, day, sequence)| {
            let body = format!("{area:06}{year:04}{month:02}{day:02}{sequence:03}");
            // ISO 7064 MOD 11-2, digit by digit: another way to the same check as the weights.
            let p = body
                .bytes()
                .fold(0, |p, b| (p + u32::from(b - b'0')) * 2 % 11);
            match (12 - p) % 11 {
                10 => format!("{body}X"),
                check => format!("{body}{check}"),
            }
        })
}

/// Valid unified social credit codes (GB 32100) of units in Nantong, digits-only ones included.
pub fn uscc() -> impl Strategy<Value = String> {
    const ALPHABET: &[u8] = b"0123456789ABCDEFGHJKLMNPQRTUWXY";
    let value = |c: u8| {
        ALPHABET
            .iter()
            .position(|a| *a == c)
            .expect("in the alphabet")
    };
    let organisation = prop_oneof!["[0-9]{8}", "MA[0-9A-HJ-NP-RTUWXY]{6}"];
    (
        "(11|12|51|52|91|92|93)",
        "3206(12|13|14|23|71|81|82|85)",
        organisation,
    )
        .prop_map(move |(kind, division, organisation)| {
            let weights = [3, 7, 9, 10, 5, 8, 4, 2];
            let sum: u32 = organisation
                .chars()
                .zip(weights)
                .map(|(c, w)| c.to_digit(36).expect("alphanumeric") * w)
                .sum();
            let check = match 11 - sum % 11 {
                10 => 'X',
                11 => '0',
                n => char::from_digit(n, 10).expect("below 10"),
            };
            format!("{kind}{division}{organisation}{check}")
        })
        .prop_map(move |body| {
            // Horner from the right: the same sum of powers of 3, reached without a weight table.
            let sum = body
                .bytes()
                .rev()
                .fold(0, |sum, c| (sum * 3 + value(c)) % 31);
            format!("{body}{}", char::from(ALPHABET[(31 - sum) % 31]))
        })
}
