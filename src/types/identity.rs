//! Who speaks and whose log it is: SPIFFE identities and log origins.

use std::fmt;
use std::str::FromStr;

use super::id::{AdminId, AgencyId, IdError, NodeId, TrustDomain};

/// What a certificate may act as.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// An organisation that submits and reads.
    Agency(AgencyId),
    /// A gateway.
    Node(NodeId),
    /// Somebody who administers gateways.
    Admin(AdminId),
    /// Somebody who checks proofs and the audit trail, and reads no record.
    Auditor(AdminId),
}

impl Role {
    /// The word for its kind, as it stands in SPIFFE IDs.
    #[must_use]
    pub const fn kind(&self) -> &'static str {
        match self {
            Self::Agency(_) => "agency",
            Self::Node(_) => "node",
            Self::Admin(_) => "admin",
            Self::Auditor(_) => "auditor",
        }
    }
}

impl FromStr for Role {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (kind, id) = text.split_once('/').ok_or(IdentityError::Shape)?;
        Ok(match kind {
            "agency" => Self::Agency(id.parse()?),
            "node" => Self::Node(id.parse()?),
            "admin" => Self::Admin(id.parse()?),
            "auditor" => Self::Auditor(id.parse()?),
            _ => return Err(IdentityError::UnknownRole),
        })
    }
}

/// A SPIFFE ID, `spiffe://{trust domain}/{agency|node|admin|auditor}/{slug}`, as the URI name of a
/// certificate carries it. Source: SPIFFE-ID, sections 2.1 and 2.2.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Identity {
    /// The trust domain.
    pub domain: TrustDomain,
    /// Who it is within the domain.
    pub role: Role,
}

/// Why a text is no identity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum IdentityError {
    /// Not `spiffe://` and three parts.
    #[error(
        "a SPIFFE id must have the form spiffe://<trust domain>/<agency|node|admin|auditor>/<id>"
    )]
    Shape,
    /// The second part names no role.
    #[error("a SPIFFE id must name the role \"agency\", \"node\", \"admin\" or \"auditor\"")]
    UnknownRole,
    /// The trust domain or the id.
    #[error("a SPIFFE id is wrong: {0}")]
    Part(#[from] IdError),
}

impl Identity {
    /// The agency, where it is one.
    #[must_use]
    pub fn agency(&self) -> Option<&AgencyId> {
        if let Role::Agency(id) = &self.role {
            Some(id)
        } else {
            None
        }
    }

    /// The node, where it is one.
    #[must_use]
    pub fn node(&self) -> Option<&NodeId> {
        if let Role::Node(id) = &self.role {
            Some(id)
        } else {
            None
        }
    }

    /// The administrator, where it is one.
    #[must_use]
    pub fn admin(&self) -> Option<&AdminId> {
        if let Role::Admin(id) = &self.role {
            Some(id)
        } else {
            None
        }
    }
}

impl FromStr for Identity {
    type Err = IdentityError;

    fn from_str(text: &str) -> Result<Self, IdentityError> {
        let (domain, role) = text
            .strip_prefix("spiffe://")
            .and_then(|rest| rest.split_once('/'))
            .ok_or(IdentityError::Shape)?;
        // Three parts and no more: an id never has a slash.
        if role.matches('/').count() != 1 {
            return Err(IdentityError::Shape);
        }
        Ok(Self {
            domain: domain.parse()?,
            role: role.parse()?,
        })
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Agency(id) => write!(f, "{}/{id}", self.kind()),
            Self::Node(id) => write!(f, "{}/{id}", self.kind()),
            Self::Admin(id) | Self::Auditor(id) => write!(f, "{}/{id}", self.kind()),
        }
    }
}

impl fmt::Display for Identity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "spiffe://{}/{}", self.domain, self.role)
    }
}

/// Tells the lives of a node's log apart: a node that lost its log starts a new one, never forks the
/// old. Eight lowercase hexadecimal digits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Incarnation(pub u32);

impl fmt::Display for Incarnation {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:08x}", self.0)
    }
}

/// The origin of a log, `{trust domain}/{node}/{incarnation}`, such as
/// `nantong.gov.cn/qidong/5f0c9a1e`. It is the first line of the log's checkpoints and the name of
/// its key (C2SP tlog-checkpoint: schemaless, no spaces, no `+`); at most 252 bytes.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Origin {
    domain: TrustDomain,
    node: NodeId,
    incarnation: Incarnation,
    text: String,
}

/// Why a text is no origin.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum OriginError {
    /// Not three parts.
    #[error("a log origin must have the form <trust domain>/<node>/<incarnation>")]
    Shape,
    /// The last part is not eight lowercase hexadecimal digits.
    #[error("the incarnation of a log origin must be 8 digits of 0-9 and a-f")]
    Incarnation,
    /// The trust domain or the node.
    #[error("a log origin is wrong: {0}")]
    Part(#[from] IdError),
}

impl Origin {
    /// Joins its parts.
    #[must_use]
    pub fn new(domain: TrustDomain, node: NodeId, incarnation: Incarnation) -> Self {
        let text = format!("{domain}/{node}/{incarnation}");
        Self {
            domain,
            node,
            incarnation,
            text,
        }
    }

    /// The trust domain.
    #[must_use]
    pub fn domain(&self) -> &TrustDomain {
        &self.domain
    }

    /// The node that writes the log.
    #[must_use]
    pub fn node(&self) -> &NodeId {
        &self.node
    }

    /// Which of the node's logs it is.
    #[must_use]
    pub fn incarnation(&self) -> Incarnation {
        self.incarnation
    }

    /// The text.
    #[must_use]
    pub fn as_str(&self) -> &str {
        &self.text
    }
}

impl FromStr for Origin {
    type Err = OriginError;

    fn from_str(text: &str) -> Result<Self, OriginError> {
        let mut parts = text.split('/');
        let (Some(domain), Some(node), Some(hex), None) =
            (parts.next(), parts.next(), parts.next(), parts.next())
        else {
            return Err(OriginError::Shape);
        };
        let lower_hex = |b: u8| matches!(b, b'0'..=b'9' | b'a'..=b'f');
        if hex.len() != 8 || !hex.bytes().all(lower_hex) {
            return Err(OriginError::Incarnation);
        }
        let incarnation = u32::from_str_radix(hex, 16).map_err(|_| OriginError::Incarnation)?;
        Ok(Self::new(
            domain.parse()?,
            node.parse()?,
            Incarnation(incarnation),
        ))
    }
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Origin({:?})", self.text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn an_identity_has_one_of_four_roles() {
        let parse = |text: &str| text.parse::<Identity>();
        let agency = parse("spiffe://nantong.gov.cn/agency/qidong-emergency").expect("an agency");
        assert_eq!(
            agency.agency().map(AgencyId::as_str),
            Some("qidong-emergency")
        );
        assert_eq!(agency.node(), None);
        assert!(
            parse("spiffe://nantong.gov.cn/node/qidong")
                .expect("a node")
                .node()
                .is_some()
        );
        assert!(
            parse("spiffe://nantong.gov.cn/admin/desk")
                .expect("an admin")
                .admin()
                .is_some()
        );
        for text in [
            "",
            "https://nantong.gov.cn/node/qidong",
            "SPIFFE://nantong.gov.cn/node/qidong",
            "spiffe://nantong.gov.cn",
            "spiffe://nantong.gov.cn/node",
            "spiffe://nantong.gov.cn/node/qidong/",
            "spiffe://nantong.gov.cn/node/qidong?x",
            "spiffe://nantong.gov.cn:443/node/qidong",
            "spiffe:///node/qidong",
        ] {
            assert!(parse(text).is_err(), "{text}");
        }
        assert_eq!(
            parse("spiffe://a.cn/person/x"),
            Err(IdentityError::UnknownRole)
        );
    }

    #[test]
    fn an_origin_names_node_and_incarnation() {
        let origin: Origin = "nantong.gov.cn/qidong/5f0c9a1e".parse().expect("an origin");
        assert_eq!(origin.node().as_str(), "qidong");
        assert_eq!(origin.incarnation(), Incarnation(0x5f0c_9a1e));
        assert_eq!(origin.domain().as_str(), "nantong.gov.cn");
        for text in [
            "",
            "nantong.gov.cn/qidong",
            "nantong.gov.cn/qidong/5f0c9a1",
            "nantong.gov.cn/qidong/5F0C9A1E",
            "nantong.gov.cn/qidong/+f0c9a1e",
            "nantong.gov.cn/qi dong/5f0c9a1e",
            "https://nantong.gov.cn/qidong/5f0c9a1e",
            "nantong.gov.cn/qidong/5f0c9a1e/",
        ] {
            assert!(text.parse::<Origin>().is_err(), "{text}");
        }
    }

    #[test]
    fn the_longest_origin_fits_its_bound() {
        let domain = vec!["d".repeat(59); 3].join(".") + "d";
        let node = format!("a{}", "b".repeat(61));
        let text = format!("{domain}/{node}/00000000");
        assert_eq!(domain.len(), 180);
        assert_eq!(text.parse::<Origin>().map(|o| o.as_str().len()), Ok(252));
    }

    proptest! {
        #[test]
        fn both_survive_the_round_trip(
            domain in "[a-z]{1,9}(\\.[a-z]{1,9}){0,2}", id in "[a-z]{2,20}", life in any::<u32>(),
            role in "agency|node|admin|auditor",
        ) {
            let text = format!("{domain}/{id}/{life:08x}");
            let origin: Origin = text.parse().expect("an origin");
            prop_assert_eq!(origin.to_string(), text);
            prop_assert_eq!(origin.incarnation(), Incarnation(life));
            let text = format!("spiffe://{domain}/{role}/{id}");
            prop_assert_eq!(text.parse::<Identity>().expect("an identity").to_string(), text);
        }

        #[test]
        fn nothing_panics(text in any::<String>()) {
            let _ = (text.parse::<Origin>(), format!("spiffe://{text}").parse::<Identity>());
        }
    }
}
