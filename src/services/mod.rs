//! The gRPC services, and the one place where errors become a status.

pub mod access;
pub mod convert;
pub mod ledger;
pub mod node;
pub mod position;
pub mod register;
pub mod replication;
pub mod status;
pub mod token;
pub mod wire;

use std::sync::Arc;

use tonic::{codec::CompressionEncoding, service::Routes};
use tonic_health::server::HealthReporter;

use self::{
    ledger::Ledgers,
    node::Nodes,
    register::{RegisterService, Shared},
    replication::Replication,
};
use crate::{
    proto::{
        DESCRIPTORS, ledger::v1::ledger_service_server::LedgerServiceServer,
        node::v1::node_service_server::NodeServiceServer,
        replication::v1::replication_service_server::ReplicationServiceServer,
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
) -> Result<(Routes, HealthReporter), tonic_reflection::server::Error> {
    let (health, health_service) = tonic_health::server::health_reporter();
    let reflection = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(DESCRIPTORS)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    let ledgers = LedgerServiceServer::new(Ledgers(shared.clone()))
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip)
        .accept_compressed(CompressionEncoding::Zstd)
        .send_compressed(CompressionEncoding::Gzip);
    let nodes = NodeServiceServer::new(nodes)
        .max_decoding_message_size(MAX_MESSAGE_BYTES)
        .accept_compressed(CompressionEncoding::Gzip);
    let replication = ReplicationServiceServer::new(Replication(mirror))
        .max_decoding_message_size(REPLICATION_BYTES)
        .max_encoding_message_size(REPLICATION_BYTES);
    let mut routes = Routes::new(health_service)
        .add_service(reflection().build_v1()?)
        .add_service(reflection().build_v1alpha()?)
        .add_service(ledgers)
        .add_service(nodes)
        .add_service(replication);
    for (id, register) in shared.registers.iter() {
        let service = RegisterService::new(shared.clone(), id.clone());
        let path = format!("/{}/{{*method}}", register.about().service);
        let router = std::mem::take(routes.axum_router_mut());
        *routes.axum_router_mut() = router.route_service(&path, register::routed(service));
    }
    Ok((routes, health))
}
