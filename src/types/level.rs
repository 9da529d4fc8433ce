//! Levels of risk. Not to be mixed with grades of accidents or levels of warnings.

use std::fmt;

/// The level of a risk, ordered from the lowest. Four levels and colours as the rules on graded
/// control of safety risks have them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RiskLevel {
    /// 低风险, blue.
    Low,
    /// 一般风险, yellow.
    General,
    /// 较大风险, orange.
    Larger,
    /// 重大风险, red.
    Major,
}

impl RiskLevel {
    /// All levels, lowest first.
    pub const ALL: [Self; 4] = [Self::Low, Self::General, Self::Larger, Self::Major];

    /// The stable name, such as `MAJOR`.
    #[must_use]
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Low => "LOW",
            Self::General => "GENERAL",
            Self::Larger => "LARGER",
            Self::Major => "MAJOR",
        }
    }

    /// The Chinese name, such as 重大风险.
    #[must_use]
    pub const fn zh(self) -> &'static str {
        match self {
            Self::Low => "低风险",
            Self::General => "一般风险",
            Self::Larger => "较大风险",
            Self::Major => "重大风险",
        }
    }

    /// The colour on maps and lists, in Chinese.
    #[must_use]
    pub const fn colour_zh(self) -> &'static str {
        match self {
            Self::Low => "蓝",
            Self::General => "黄",
            Self::Larger => "橙",
            Self::Major => "红",
        }
    }
}

impl fmt::Display for RiskLevel {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn levels_rise_from_blue_to_red() {
        assert!(RiskLevel::ALL.is_sorted());
        let colours: String = RiskLevel::ALL.iter().map(|l| l.colour_zh()).collect();
        assert_eq!(colours, "蓝黄橙红");
        assert_eq!(
            (RiskLevel::Major.as_str(), RiskLevel::Major.zh()),
            ("MAJOR", "重大风险")
        );
    }
}
