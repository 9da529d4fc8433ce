//! Records to submit: valid, distinct, about 512 bytes each.

use crate::proto::{
    risk::v1::{ConsequenceType, Risk, RiskLevel, RiskState},
    r#type::v1::{Datum, Place, Unit},
};

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

/// Whose records, and where.
#[derive(Debug, Clone)]
pub struct Source {
    /// The agency.
    pub agency: String,
    /// A division that it may write for.
    pub division: String,
    /// What its item numbers begin with.
    pub prefix: String,
}

impl Default for Source {
    fn default() -> Self {
        Self {
            agency: "qidong-emergency".to_owned(),
            division: "320681".to_owned(),
            prefix: "B".to_owned(),
        }
    }
}

impl Source {
    /// The collection that the records are in.
    #[must_use]
    pub fn collection(&self) -> String {
        format!("agencies/{}/risks", self.agency)
    }

    /// The name of the `n`th risk.
    #[must_use]
    pub fn name(&self, n: u64) -> String {
        format!("{}/{}-{n:09}", self.collection(), self.prefix)
    }

    /// The `n`th risk.
    #[must_use]
    pub fn risk(&self, n: u64) -> Risk {
        let pick = |from: usize| usize::try_from(n % from as u64).unwrap_or(0);
        let level = LEVELS.get(pick(LEVELS.len())).copied();
        let state = STATES.get(pick(STATES.len())).copied();
        Risk {
            name: self.name(n),
            title: format!("储罐区第{n}号罐火灾与泄漏"),
            sector: "C2631".to_owned(),
            place: Some(Place {
                division: self.division.clone(),
                address: format!("启东市滨江精细化工园上海路{}号", n % 1_000),
                latitude: Some(31.7 + pick(100) as f64 / 1_000.0),
                longitude: Some(121.6 + pick(90) as f64 / 1_000.0),
                datum: Datum::Cgcs2000.into(),
            }),
            level: level.unwrap_or_default().into(),
            state: state.unwrap_or_default().into(),
            factor: "罐体腐蚀减薄，法兰垫片老化，装卸作业时静电接地不良，泄漏后遇火源起火。"
                .to_owned(),
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
}
