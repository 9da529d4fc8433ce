//! `hefu quota`: how much the caller may use, and where it stands.

use super::{Client, ClientError, args::Output, dynamic, table::table};
use crate::proto::quota::v1::{self as pb, quota_service_client::QuotaServiceClient};

/// Asks the node and prints what it says.
///
/// # Errors
/// [`ClientError`].
pub async fn show(client: &Client, output: Output) -> Result<(), ClientError> {
    let mut service = QuotaServiceClient::new(client.0.clone());
    let quota = service
        .get_quota(pb::GetQuotaRequest {})
        .await?
        .into_inner();
    if matches!(output, Output::Json) {
        let shown = dynamic::dynamic("hefu.quota.v1.GetQuotaResponse", &quota);
        let shown = shown.and_then(|shown| serde_json::to_string(&shown).ok());
        println!("{}", shown.unwrap_or_default());
        return Ok(());
    }
    println!("{}", quota.caller);
    let mut rows = table(["limit", "allowed", "used", "remaining"]);
    for usage in &quota.limits {
        let number = |number: Option<i64>| number.map(|n| n.to_string()).unwrap_or_default();
        rows.add_row([
            usage.limit.clone(),
            usage.allowed.to_string(),
            number(usage.used),
            number(usage.remaining),
        ]);
    }
    println!("{rows}");
    if let Some(last) = &quota.last_time {
        let (refused, slowed, limit) = (quota.refused, quota.slowed, &quota.last_limit);
        println!("refused {refused} times, slowed {slowed} times; last by {limit} at {last}");
    }
    Ok(())
}
