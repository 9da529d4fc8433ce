//! Records to submit: valid, distinct, about 512 bytes each.

#![allow(clippy::indexing_slicing)]

use hefu::proto::{
    risk::v1::{ConsequenceType, Risk, RiskLevel, RiskState},
    r#type::v1::{Datum, Place, Unit},
};

/// The agency that submits them.
pub const AGENCY: &str = "qidong-emergency";
/// Its node.
pub const NODE: &str = "qidong";

const LEVELS: [RiskLevel; 4] = [
    RiskLevel::Low,
    RiskLevel::General,
    RiskLevel::Larger,
    RiskLevel::Major,
];
const STATES: [RiskState; 3] = [
    RiskState::Identified,
    RiskState::Reviewed,
    RiskState::Controlled,
];

/// The `n`th risk.
pub fn risk(n: u64) -> Risk {
    let pick = |from: usize| usize::try_from(n % from as u64).unwrap_or(0);
    Risk {
        name: format!("agencies/{AGENCY}/risks/B-{n:09}"),
        title: format!("储罐区第{n}号罐火灾与泄漏"),
        sector: "C2631".to_owned(),
        place: Some(Place {
            division: "320681".to_owned(),
            address: format!("启东市滨江精细化工园上海路{}号", n % 1_000),
            latitude: Some(31.7 + pick(100) as f64 / 1_000.0),
            longitude: Some(121.6 + pick(90) as f64 / 1_000.0),
            datum: Datum::Cgcs2000.into(),
        }),
        level: LEVELS[pick(LEVELS.len())].into(),
        state: STATES[pick(STATES.len())].into(),
        factor: "罐体腐蚀减薄，法兰垫片老化，装卸作业时静电接地不良，泄漏后遇火源起火。".to_owned(),
        consequences: vec![
            ConsequenceType::Fire.into(),
            ConsequenceType::Leakage.into(),
        ],
        responsible_unit: Some(Unit {
            name: "启东试点精细化工有限公司（虚构）".to_owned(),
            post: "安全总监".to_owned(),
            office_phone: "0513-80000743".to_owned(),
            ..Unit::default()
        }),
        basis: "GB 18218-2018《危险化学品重大危险源辨识》；企业风险辨识记录".to_owned(),
        regulator: "启东市应急管理局".to_owned(),
        review_cycle_days: 90,
        note: "合成数据，非真实记录".to_owned(),
    }
}
