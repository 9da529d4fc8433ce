//! The gRPC services, and the one place where errors become a status.

pub mod access;
mod asker;
pub mod audit;
pub mod convert;
pub mod courier;
pub mod ledger;
pub mod methods;
pub mod node;
pub mod position;
pub mod quota;
pub mod reflection;
pub mod register;
pub mod replication;
pub mod statistics;
pub mod status;
pub mod token;
pub mod wire;

use std::sync::Arc;

use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::server::HealthReporter;

use self::{
    audit::Audits,
    courier::Couriers,
    ledger::Ledgers,
    methods::Methods,
    node::Nodes,
    quota::Quoted,
    reflection::Reflection,
    register::{RegisterService, Shared},
    replication::Replication,
    statistics::Statistics,
};
use crate::{
    proto::{
        audit::v1::audit_service_server::AuditServiceServer,
        ledger::v1::ledger_service_server::LedgerServiceServer,
        node::v1::node_service_server::NodeServiceServer,
        quota::v1::quota_service_server::QuotaServiceServer,
        replication::v1::{
            courier_service_server::CourierServiceServer,
            replication_service_server::ReplicationServiceServer,
        },
        statistics::v1::statistics_service_server::StatisticsServiceServer,
    },
    replication::{MAX_MESSAGE_BYTES as REPLICATION_BYTES, Mirror},
};

/// Bytes of one message, decompressed, at most: 4 MiB.
pub const MAX_MESSAGE_BYTES: usize = 4 * 1024 * 1024;

/// All services of a node, and the reporter of their health.
///
/// # Errors
/// Where the descriptors that are built in cannot be served.
pub fn routes(
    shared: Arc<Shared>,
    nodes: Nodes,
    mirror: Mirror,
    methods: Methods,
) -> Result<(Routes, HealthReporter), prost::DecodeError> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let ledgers = LedgerServiceServer::new(Ledgers(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip);
    let statistics = Statistics {
        shared: shared.clone(),
        child: nodes.uplink.is_some(),
    };
    let statistics = StatisticsServiceServer::new(statistics)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let couriers = CourierServiceServer::new(Couriers {
        board: nodes.board.clone(),
        mirror: mirror.clone(),
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let nodes = NodeServiceServer::new(nodes)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let audits = AuditServiceServer::new(Audits(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .send_compressed(CompressionEncoding::Gzip);
    let quotas = QuotaServiceServer::new(Quoted(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let replication = ReplicationServiceServer::new(Replication(mirror))
        .max_decoding_message_size(REPLICATION_BYTES)
        .max_encoding_message_size(REPLICATION_BYTES);
    let mut routes = Routes::new(health_service)
        .add_service(ledgers)
        .add_service(nodes)
        .add_service(audits)
        .add_service(quotas)
        .add_service(statistics)
        .add_service(couriers)
        .add_service(replication);
    let reflection = Reflection::new(shared.access.clone(), methods)?;
    for version in ["v1", "v1alpha"] {
        let path = format!("/grpc.reflection.{version}.ServerReflection/{{*method}}");
        let router = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = router.route_service(&path, reflection.clone());
    }
    for (id, register) in shared.registers.iter() {
        let service = RegisterService::new(shared.clone(), id.clone());
        let path = format!("/{}/{{*method}}", register.about().service);
        let router = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = router.route_service(&path, register::routed(service));
    }
    Ok((routes, health))
}
