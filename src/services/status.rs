//! The only place that makes a gRPC status.

use std::{collections::HashMap, time::Duration};

use prost::Message as _;
use prost_types::Any;
use tonic::{Code, Status};
use tonic_types::{
    BadRequest, ErrorDetail, ErrorInfo, FieldViolation, LocalizedMessage, PreconditionFailure,
    PreconditionViolation, QuotaFailure, QuotaViolation, RetryInfo, StatusExt as _, pb,
};
use uuid::Uuid;

use crate::{
    proto::error::v1::ErrorReason,
    storage::StorageError,
    types::{Reason, Refusal},
};

/// The domain of every `ErrorInfo`.
pub const DOMAIN: &str = "hefu";

/// The fact that says whose limit a caller is over.
pub const SUBJECT: &str = "subject";

/// The gRPC code of a reason: as documented beside it in `error.proto`.
#[must_use]
pub fn code(reason: Reason) -> Code {
    use Reason as R;
    match reason {
        R::FieldInvalid
        | R::RequestMalformed
        | R::PageTokenInvalid
        | R::PositionInvalid
        | R::FilterInvalid
        | R::FilterTooComplex
        | R::OrderInvalid
        | R::CourierInvalid => Code::InvalidArgument,
        R::RecordNotFound | R::LogNotFound => Code::NotFound,
        R::AgencyMismatch | R::AgencyUnknown | R::MethodNotAllowed | R::OriginForged => {
            Code::PermissionDenied
        }
        R::IdentityMissing | R::CertificateEnded => Code::Unauthenticated,
        R::EtagStale => Code::Aborted,
        R::RequestIdReused => Code::AlreadyExists,
        R::TransitionNotAllowed
        | R::NilContradicted
        | R::LiveDependents
        | R::ReferenceMissing
        | R::LogForked
        | R::CheckpointInvalid
        | R::ProtocolUnsupported
        | R::ListIncomplete
        | R::BehindParent
        | R::ParentUnavailable
        | R::RecordElsewhere
        | R::CourierMisplaced => Code::FailedPrecondition,
        R::MessageTooLarge | R::StorageFull | R::Overloaded | R::QuotaExceeded | R::TooSlow => {
            Code::ResourceExhausted
        }
        R::StorageFailed | R::ShuttingDown | R::ConnectionAged => Code::Unavailable,
        R::DataDamaged => Code::DataLoss,
        R::IndexOutOfRange => Code::OutOfRange,
        R::Internal => Code::Internal,
        R::DeadlineExceeded => Code::DeadlineExceeded,
        R::MethodUnknown => Code::Unimplemented,
    }
}

/// A refusal as a status with its details.
#[must_use]
pub fn status(refusal: Refusal) -> Status {
    let code = code(refusal.reason);
    let subject = refusal.metadata.get(SUBJECT).cloned();
    let mut details: Vec<ErrorDetail> = vec![
        ErrorInfo::new(
            refusal.reason.as_str(),
            DOMAIN,
            refusal.metadata.into_iter().collect::<HashMap<_, _>>(),
        )
        .into(),
    ];
    if !refusal.violations.is_empty() {
        let violations = refusal.violations.iter().map(|violation| FieldViolation {
            field: violation.field.clone(),
            description: violation.en.clone(),
            reason: violation.reason.as_str().to_owned(),
            localized_message: Some(LocalizedMessage::new("zh-CN", violation.zh.clone())),
        });
        details.push(BadRequest::new(violations.collect::<Vec<_>>()).into());
    }
    match code {
        Code::FailedPrecondition => {
            let violation =
                PreconditionViolation::new(refusal.reason.as_str(), "", refusal.en.clone());
            details.push(PreconditionFailure::new(vec![violation]).into());
        }
        Code::ResourceExhausted => {
            // Whose limit it is: the caller's, or else the node's.
            let subject = subject.unwrap_or_else(|| refusal.reason.to_string());
            let violation = QuotaViolation::new(subject, refusal.en.clone());
            details.push(QuotaFailure::new(vec![violation]).into());
        }
        _ => {}
    }
    if let Some(after) = refusal.retry_after.or_else(|| retry_after(refusal.reason)) {
        details.push(RetryInfo::new(Some(after)).into());
    }
    details.push(LocalizedMessage::new("en", refusal.en.clone()).into());
    details.push(LocalizedMessage::new("zh-CN", refusal.zh).into());
    Status::with_error_details_vec(code, refusal.en, details)
}

/// When a retry makes sense where the refusal itself does not say.
fn retry_after(reason: Reason) -> Option<Duration> {
    match reason {
        Reason::Overloaded => Some(Duration::from_secs(1)),
        Reason::ConnectionAged => Some(Duration::from_millis(100)),
        Reason::StorageFailed | Reason::ShuttingDown => Some(Duration::from_secs(5)),
        Reason::StorageFull => Some(Duration::from_secs(60)),
        _ => None,
    }
}

/// A storage error as a caller may see it: its cause stays in the node's log, under a reference.
#[must_use]
pub fn storage(error: StorageError) -> Refusal {
    let reference = Uuid::now_v7();
    tracing::error!(%reference, %error, "storage");
    let reason = match error {
        StorageError::Corrupt { .. } => Reason::DataDamaged,
        StorageError::Full { .. } => Reason::StorageFull,
        StorageError::Failed { .. } | StorageError::Poisoned => Reason::StorageFailed,
    };
    referenced(reason, reference)
}

/// A fault of the program: the cause goes to the log, the caller gets a reference.
#[must_use]
pub fn internal(cause: &str) -> Refusal {
    let reference = Uuid::now_v7();
    tracing::error!(%reference, cause, "internal error");
    referenced(Reason::Internal, reference)
}

fn referenced(reason: Reason, reference: Uuid) -> Refusal {
    let (en, zh) = (
        format!("reference {reference}"),
        format!("编号 {reference}"),
    );
    Refusal::new(reason)
        .because(en, zh)
        .with("reference", reference)
}

/// A status of tonic's own making, in hefu's terms; one that has details already is left as it is.
#[must_use]
pub fn mapped(foreign: Status) -> Status {
    // A caller that goes away in the middle of a message: nobody is left to tell, and it is no fault.
    let is_gone = foreign.message().contains("h2 protocol error");
    if is_gone || foreign.code() == Code::Ok || !foreign.details().is_empty() {
        return foreign;
    }
    let mut known = status(refusal(&foreign));
    // Such as grpc-accept-encoding, which tells a client how it may compress.
    *known.metadata_mut() = foreign.metadata().clone();
    known
}

/// How tonic's INTERNAL begins where the fault is in what hefu sends. All others are about what the
/// caller sent: cut, with a wrong flag, not decompressible, no message, or not that message.
const ENCODING: [&str; 2] = ["Error encoding", "Error compressing"];

fn refusal(foreign: &Status) -> Refusal {
    let text = foreign.message();
    match foreign.code() {
        Code::OutOfRange | Code::ResourceExhausted => Reason::MessageTooLarge.into(),
        Code::InvalidArgument => Reason::RequestMalformed.into(),
        Code::Unimplemented if text.starts_with("Content is compressed") => {
            let (en, zh) = (
                "send it as gzip, zstd or plain",
                "请使用 gzip、zstd 或不压缩",
            );
            Refusal::new(Reason::RequestMalformed).because(en, zh)
        }
        Code::Unimplemented => Reason::MethodUnknown.into(),
        Code::DeadlineExceeded | Code::Cancelled => Reason::DeadlineExceeded.into(),
        Code::Unavailable => Reason::ShuttingDown.into(),
        Code::Unauthenticated => Reason::IdentityMissing.into(),
        Code::PermissionDenied => Reason::MethodNotAllowed.into(),
        Code::NotFound => Reason::RecordNotFound.into(),
        Code::Internal if !ENCODING.iter().any(|own| text.starts_with(own)) => malformed(text),
        _ => internal(text),
    }
}

/// Bytes that are not the message: prost's words name the field, and repeat nothing of its value.
fn malformed(text: &str) -> Refusal {
    let refusal = Refusal::new(Reason::RequestMalformed);
    match text.strip_prefix("failed to decode Protobuf message: ") {
        Some(why) => refusal.because(why, why),
        None => refusal,
    }
}

/// A message that a client could not encode.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that makes them"
)]
pub fn unencodable(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, format!("cannot encode: {error}"))
}

/// An answer that a client could not decode: the node is of another version.
#[expect(
    clippy::disallowed_methods,
    reason = "this is the place that makes them"
)]
pub fn undecodable(error: impl std::fmt::Display) -> Status {
    Status::new(Code::Internal, format!("cannot read the answer: {error}"))
}

/// An error as a client reads it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Decoded {
    /// The gRPC code.
    pub code: Code,
    /// The stable reason, where the server is a hefu.
    pub reason: Option<ErrorReason>,
    /// What is wrong, in English.
    pub en: String,
    /// The same in Chinese; empty where the server sent none.
    pub zh: String,
    /// Broken fields: path, reason, English, Chinese.
    pub violations: Vec<(String, String, String, String)>,
    /// Facts for programs, such as the allowed states.
    pub metadata: HashMap<String, String>,
    /// When a retry makes sense.
    pub retry_after: Option<Duration>,
}

/// Reads a status's details.
#[must_use]
pub fn decode(status: &Status) -> Decoded {
    let mut decoded = Decoded {
        code: status.code(),
        reason: None,
        en: status.message().to_owned(),
        zh: String::new(),
        violations: Vec::new(),
        metadata: HashMap::new(),
        retry_after: None,
    };
    for any in pb::Status::decode(status.details())
        .map(|s| s.details)
        .unwrap_or_default()
    {
        read_detail(&any, &mut decoded);
    }
    decoded
}

fn read_detail(any: &Any, decoded: &mut Decoded) {
    let bytes = any.value.as_slice();
    match any.type_url.rsplit('/').next().unwrap_or_default() {
        "google.rpc.ErrorInfo" => {
            let info = pb::ErrorInfo::decode(bytes).unwrap_or_default();
            let name = format!("ERROR_REASON_{}", info.reason);
            decoded.reason = ErrorReason::from_str_name(&name).filter(|_| info.domain == DOMAIN);
            decoded.metadata = info.metadata;
        }
        "google.rpc.BadRequest" => {
            let request = pb::BadRequest::decode(bytes).unwrap_or_default();
            decoded
                .violations
                .extend(request.field_violations.into_iter().map(|violation| {
                    let zh = violation
                        .localized_message
                        .map(|m| m.message)
                        .unwrap_or_default();
                    (violation.field, violation.reason, violation.description, zh)
                }));
        }
        "google.rpc.LocalizedMessage" => {
            let message = pb::LocalizedMessage::decode(bytes).unwrap_or_default();
            if message.locale == "zh-CN" {
                decoded.zh = message.message;
            }
        }
        "google.rpc.RetryInfo" => {
            let delay = pb::RetryInfo::decode(bytes)
                .ok()
                .and_then(|info| info.retry_delay);
            decoded.retry_after = delay.and_then(|delay| delay.try_into().ok());
        }
        _ => {}
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reasons_are_those_of_the_proto() {
        for reason in Reason::ALL {
            let name = format!("ERROR_REASON_{reason}");
            let proto = ErrorReason::from_str_name(&name).unwrap();
            assert_eq!(i32::from(proto), reason.number());
        }
        let highest = ErrorReason::try_from(i32::try_from(Reason::ALL.len()).unwrap());
        assert!(highest.is_ok(), "every value but UNSPECIFIED has a reason");
        assert!(ErrorReason::try_from(Reason::ALL.len() as i32 + 1).is_err());
    }

    #[test]
    fn codes_are_those_that_the_proto_documents() {
        let proto = include_str!("../../proto/hefu/error/v1/error.proto");
        let lines: Vec<_> = proto.lines().map(str::trim).collect();
        for reason in Reason::ALL {
            let value = format!("ERROR_REASON_{reason} = {};", reason.number());
            let at = lines.iter().position(|line| *line == value).unwrap();
            let first = lines[..at]
                .iter()
                .rposition(|line| !line.starts_with("//"))
                .unwrap()
                + 1;
            let documented = lines[first]
                .trim_start_matches("// ")
                .split('.')
                .next()
                .unwrap();
            let actual = format!("{:?}", code(*reason));
            assert_eq!(
                documented.replace('_', "").to_lowercase(),
                actual.to_lowercase()
            );
        }
    }

    #[test]
    fn a_client_reads_what_the_server_wrote() {
        let mut violations = crate::types::Violations::new();
        violations.required("risk.level");
        let decoded = decode(&status(violations.into()));
        assert_eq!(decoded.code, Code::InvalidArgument);
        assert_eq!(decoded.reason, Some(ErrorReason::FieldInvalid));
        assert_eq!(decoded.violations[0].0, "risk.level");
        assert_eq!(decoded.violations[0].1, "REQUIRED");
        assert!(!decoded.zh.is_empty() && !decoded.violations[0].3.is_empty());
        let decoded = decode(&status(Reason::Overloaded.into()));
        assert_eq!(decoded.retry_after, Some(Duration::from_secs(1)));
    }

    #[test]
    fn causes_stay_inside() {
        let cause = "/var/lib/hefu/journal: disk on fire";
        let error = StorageError::Failed {
            doing: "appending",
            cause: cause.to_owned(),
        };
        let shown = format!("{:?}", status(storage(error)));
        assert!(
            !shown.contains("/var") && !shown.contains("fire"),
            "{shown}"
        );
    }
}
