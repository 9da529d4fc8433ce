//! Why something is refused: one enum for the whole program, one carrier with the details.

use std::{collections::BTreeMap, fmt, time::Duration};

use super::Violation;

macro_rules! reasons {
    ($($(#[$doc:meta])* $name:ident = $number:literal, $code:literal, $en:literal, $zh:literal;)*) => {
        /// A stable reason. Names and numbers are those of `hefu.error.v1.ErrorReason`.
        #[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
        pub enum Reason {
            $($(#[$doc])* $name = $number,)*
        }

        impl Reason {
            /// Every reason.
            pub const ALL: &[Self] = &[$(Self::$name),*];

            /// The name that callers see, such as `ETAG_STALE`.
            #[must_use]
            pub fn as_str(self) -> &'static str {
                match self { $(Self::$name => $code,)* }
            }

            /// What it means and what to do, in English and in Chinese.
            #[must_use]
            pub fn texts(self) -> (&'static str, &'static str) {
                match self { $(Self::$name => ($en, $zh),)* }
            }
        }
    };
}

reasons! {
    /// Fields break their rules; google.rpc.BadRequest names each.
    FieldInvalid = 1, "FIELD_INVALID",
        "some fields break their rules", "有字段不符合规则";
    /// The bytes are not the message they should be (bad UTF-8, cut, wrong type).
    RequestMalformed = 2, "REQUEST_MALFORMED",
        "the bytes are not the message they should be", "请求内容不是应有的消息格式";
    /// No such record, or none that the caller may read: the two cannot be told apart.
    RecordNotFound = 3, "RECORD_NOT_FOUND",
        "there is no such record", "没有这条记录";
    /// The name belongs to an agency other than the one in the certificate.
    AgencyMismatch = 4, "AGENCY_MISMATCH",
        "the name belongs to another agency than the one in your certificate", "名称所属单位与证书中的单位不一致";
    /// The certificate's agency is not registered at this node.
    AgencyUnknown = 5, "AGENCY_UNKNOWN",
        "your agency is not registered at this node; submit at the node of its county", "贵单位未在本节点登记，请向所属县区的节点提交";
    /// The caller's role may not call this method.
    MethodNotAllowed = 6, "METHOD_NOT_ALLOWED",
        "your role may not call this method", "当前角色无权调用此方法";
    /// The client certificate names no identity of this trust domain.
    IdentityMissing = 7, "IDENTITY_MISSING",
        "your certificate names no identity of this trust domain", "证书中没有本信任域的身份";
    /// The etag is not that of the current revision: read again, then decide again.
    EtagStale = 8, "ETAG_STALE",
        "the record has changed since you read it; read it again", "记录已被更新，请重新读取后再提交";
    /// The request_id was used before, with other content.
    RequestIdReused = 9, "REQUEST_ID_REUSED",
        "this request_id was used before, with other content; use a new one", "该 request_id 已用于其他内容，请换一个";
    /// The lifecycle does not allow this step; the allowed ones are named.
    TransitionNotAllowed = 10, "TRANSITION_NOT_ALLOWED",
        "the lifecycle does not allow this step", "生命周期不允许这一步";
    /// Live records depend on this one; withdraw them first, or set cascade.
    LiveDependents = 11, "LIVE_DEPENDENTS",
        "live records depend on this one; withdraw them first, or set cascade", "仍有有效记录依赖它，请先撤销它们，或设置 cascade";
    /// The record it refers to is absent or withdrawn.
    ReferenceMissing = 12, "REFERENCE_MISSING",
        "the record it refers to is absent or withdrawn", "所引用的记录不存在或已撤销";
    /// The page token is not one of this node for this very query and caller.
    PageTokenInvalid = 13, "PAGE_TOKEN_INVALID",
        "the page token is not of this node for this query; start from the first page", "翻页令牌不属于本节点的这一查询，请从第一页重新开始";
    /// The position is not one that this node gave out.
    PositionInvalid = 14, "POSITION_INVALID",
        "the position is not one that this node gave out", "该位置不是本节点给出的";
    /// The filter does not parse, or names a field or value that is not there.
    FilterInvalid = 15, "FILTER_INVALID",
        "the filter is not valid", "过滤条件无效";
    /// The filter is longer, deeper or has more terms than the documented limits.
    FilterTooComplex = 16, "FILTER_TOO_COMPLEX",
        "the filter is too long, too deep, or has too many terms", "过滤条件过长、过深或条款过多";
    /// The list cannot be ordered by that.
    OrderInvalid = 17, "ORDER_INVALID",
        "the list cannot be ordered by that", "不能按此排序";
    /// A message is over the limit of 4 MiB, or a list over its limit of rows.
    MessageTooLarge = 18, "MESSAGE_TOO_LARGE",
        "the message is over its limit", "消息超过大小上限";
    /// The node's disk is below its watermark: it takes nothing more in; reads go on.
    StorageFull = 19, "STORAGE_FULL",
        "the disk of the node is nearly full; it takes nothing in until there is space", "节点磁盘将满，暂不接收新内容";
    /// Storage failed; the node stops. Retry with the same request_id after its restart.
    StorageFailed = 20, "STORAGE_FAILED",
        "the storage of the node failed; retry with the same request_id after its restart", "节点存储故障，请在其重启后用同一 request_id 重试";
    /// Stored bytes are damaged and are not served; the operator is told which.
    DataDamaged = 21, "DATA_DAMAGED",
        "stored bytes are damaged and are not served; tell the operator", "存储内容已损坏，不予提供，请通知运维人员";
    /// No such log at this node.
    LogNotFound = 22, "LOG_NOT_FOUND",
        "there is no such log at this node", "本节点没有该日志";
    /// The index or size is beyond the log.
    IndexOutOfRange = 23, "INDEX_OUT_OF_RANGE",
        "the index or size is beyond the log", "序号或大小超出日志范围";
    /// The log contradicts what it signed before; it is quarantined, evidence kept.
    LogForked = 24, "LOG_FORKED",
        "the log contradicts what it signed before; it is quarantined", "日志与其此前签署的内容矛盾，已被隔离";
    /// The checkpoint's signature, origin or root is wrong.
    CheckpointInvalid = 25, "CHECKPOINT_INVALID",
        "the signature, origin or root of the checkpoint is wrong", "检查点的签名、来源或根不正确";
    /// The peer speaks no protocol version that this node speaks.
    ProtocolUnsupported = 26, "PROTOCOL_UNSUPPORTED",
        "no protocol version is spoken by both nodes", "两个节点没有共同支持的协议版本";
    /// Too much is waiting; retry after the time in RetryInfo.
    Overloaded = 27, "OVERLOADED",
        "too much is waiting; retry later", "等待处理的请求过多，请稍后重试";
    /// The node is shutting down; retry elsewhere or later.
    ShuttingDown = 28, "SHUTTING_DOWN",
        "the node is shutting down", "节点正在停机";
    /// The list was declared complete but is not what it says, so nothing is withdrawn.
    ListIncomplete = 29, "LIST_INCOMPLETE",
        "the list is not what it was declared to be; nothing was withdrawn", "清单与声明不符，未撤销任何记录";
    /// The node may not append: its parent holds more of its log than it does itself.
    BehindParent = 30, "BEHIND_PARENT",
        "the node holds less of its own log than its parent; it may not append", "本节点的日志少于上级所持，不得追加";
    /// A fault of hefu; the reference in the text finds it in the node's log.
    Internal = 31, "INTERNAL",
        "a fault of the node", "节点内部故障";
    /// The caller's deadline passed first; a submit may still have been taken: retry it
    DeadlineExceeded = 32, "DEADLINE_EXCEEDED",
        "the deadline passed; retry a submission with the same request_id", "已超过时限；提交请用同一 request_id 重试";
    /// The node has no parent, or its parent cannot be reached now.
    ParentUnavailable = 33, "PARENT_UNAVAILABLE",
        "the node has no parent, or cannot reach it now", "节点没有上级，或暂时连不上上级";
    /// No such method at this node.
    MethodUnknown = 34, "METHOD_UNKNOWN",
        "there is no such method at this node", "本节点没有此方法";
    /// Another node owns the record; only that one writes its revisions.
    RecordElsewhere = 35, "RECORD_ELSEWHERE",
        "another node owns the record; submit it there", "该记录由其他节点拥有，请在该节点提交";
    /// A log holds a record of an agency that the agency table here places at other nodes.
    OriginForged = 36, "ORIGIN_FORGED",
        "the log holds records of an agency that does not submit at its node", "日志中有不属于该节点的单位的记录";
    /// The certificate of the connection has ended, is revoked, or leads to a root that is trusted no more.
    CertificateEnded = 37, "CERTIFICATE_ENDED",
        "the certificate of this connection has ended, was revoked or is no longer trusted; connect with another", "此连接的证书已到期、被吊销或不再受信任，请更换证书后重新连接";
    /// The agency has records with an event in the period that it says has none.
    NilContradicted = 38, "NIL_CONTRADICTED",
        "there are records in the period that you say has none; send those, or correct the period", "所报期间内已有记录，不能零报告";
    /// The file is not a whole courier file: cut, changed, or another file.
    CourierInvalid = 39, "COURIER_INVALID",
        "the courier file is not whole; carry it again", "摆渡文件不完整或已损坏，请重新拷贝";
    /// A courier file for another node, or one that does not go on where the node stands.
    CourierMisplaced = 40, "COURIER_MISPLACED",
        "the courier file does not belong here, or not yet", "摆渡文件不属于本节点，或次序不对";
    /// The caller is over a limit that the policy sets it; QuotaFailure names it.
    QuotaExceeded = 41, "QUOTA_EXCEEDED",
        "you are over a limit that the policy of this node sets you", "超出本节点策略为您设定的上限";
    /// The call made no progress for too long, or a message took too long: it was ended to free its place.
    TooSlow = 42, "TOO_SLOW",
        "the call made no progress for too long and was ended; a watch resumes from its last position", "调用长时间没有进展，已被终止；订阅可从最后的位置继续";
    /// The connection has reached its age: connect again and go on.
    ConnectionAged = 43, "CONNECTION_AGED",
        "the connection has reached its age; connect again, a watch resumes from its last position", "连接已到使用期限，请重新连接；订阅可从最后的位置继续";
}

impl Reason {
    /// The number in the proto.
    #[must_use]
    pub fn number(self) -> i32 {
        self as i32
    }
}

impl fmt::Display for Reason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

/// A refusal: the reason, and what helps the caller to mend it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Refusal {
    /// The stable reason.
    pub reason: Reason,
    /// What is wrong and what to do, in English.
    pub en: String,
    /// The same in Chinese.
    pub zh: String,
    /// Every field that broke a rule.
    pub violations: Vec<Violation>,
    /// Facts that a program may read, such as the allowed values.
    pub metadata: BTreeMap<String, String>,
    /// When a retry makes sense.
    pub retry_after: Option<Duration>,
}

impl Refusal {
    /// A refusal in the reason's own words.
    #[must_use]
    pub fn new(reason: Reason) -> Self {
        let (en, zh) = reason.texts();
        Self {
            reason,
            en: en.to_owned(),
            zh: zh.to_owned(),
            violations: Vec::new(),
            metadata: BTreeMap::new(),
            retry_after: None,
        }
    }

    /// Adds to the words: what exactly, in English and in Chinese.
    #[must_use]
    pub fn because(mut self, en: impl fmt::Display, zh: impl fmt::Display) -> Self {
        self.en = format!("{}: {en}", self.en);
        self.zh = format!("{}：{zh}", self.zh);
        self
    }

    /// Fields that broke rules.
    #[must_use]
    pub fn fields(violations: Vec<Violation>) -> Self {
        Self {
            violations,
            ..Self::new(Reason::FieldInvalid)
        }
    }

    /// A fact that a program may read.
    #[must_use]
    pub fn with(mut self, key: &str, value: impl fmt::Display) -> Self {
        self.metadata.insert(key.to_owned(), value.to_string());
        self
    }

    /// When a retry makes sense.
    #[must_use]
    pub fn retry_after(mut self, after: Duration) -> Self {
        self.retry_after = Some(after);
        self
    }
}

impl From<Reason> for Refusal {
    fn from(reason: Reason) -> Self {
        Self::new(reason)
    }
}

impl fmt::Display for Refusal {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}: {}", self.reason, self.en)
    }
}

impl std::error::Error for Refusal {}

impl From<super::Violations> for Refusal {
    fn from(violations: super::Violations) -> Self {
        Self::fields(violations.into_iter().collect())
    }
}
