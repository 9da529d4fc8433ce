//! One hazard on its way from report to closure, as the city holds it.

use prost_reflect::{DynamicMessage, Value};

use super::{CliError, HAZARD, Running, Stage, other};
use crate::cli::client::{
    dynamic::{RegisterApi, sub, subs, text},
    method, table,
};

/// Prints every revision, oldest first; says what is wrong where the hazard is not closed.
pub(super) async fn show(stage: &Stage, city: &Running) -> Result<Vec<String>, CliError> {
    let register = RegisterApi::find("hazards").ok_or_else(|| other("no hazards"))?;
    let issued = stage.issue("admin", "operator")?;
    let client = stage.client(&issued, city.address).await?;
    let list = method(&register, "ListHazardRevisions")?;
    let mut message = DynamicMessage::new(list.input());
    message.set_field_by_name("name", Value::String(HAZARD.to_owned()));
    let answer = client.unary(list, message).await?;
    let mut revisions = subs(&answer, "revisions");
    revisions.reverse();
    let mut rows = table::table(["rev", "state", "acceptance", "closed by"]);
    let mut last = String::new();
    for revision in &revisions {
        let (Some(hazard), Some(info)) = (sub(revision, "hazard"), sub(revision, "info")) else {
            continue;
        };
        let check = sub(&hazard, "acceptance");
        let comment = check.map(|check| text(&check, "comment"));
        last = table::enum_name(&hazard, "state").unwrap_or_default();
        rows.add_row([
            table::number(&info, "revision"),
            last.clone(),
            comment.unwrap_or_default(),
            text(&hazard, "closing_document"),
        ]);
    }
    println!("{HAZARD}, as the city holds it:\n{rows}");
    if last == "CLOSED" {
        return Ok(Vec::new());
    }
    Ok(vec![format!("{HAZARD} is {last}, not CLOSED")])
}
