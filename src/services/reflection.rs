//! Reflection, cut to what the caller may call: a method that one may not call is not described to one.

use std::{
    collections::HashMap,
    convert::Infallible,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll},
};

use futures::future::BoxFuture;
use prost::Message as _;
use prost_types::{FileDescriptorProto, FileDescriptorSet};
use tonic::{body::Body, service::Routes};
use tower::{Service, ServiceExt as _};

use super::{access::Access, methods::Methods, status::status};
use crate::{
    proto::DESCRIPTORS,
    types::{Identity, Peer, Reason},
};

/// The reflection services, one pair for each set of methods that somebody may call.
#[derive(Clone)]
pub struct Reflection {
    access: Access,
    methods: Methods,
    files: Arc<FileDescriptorSet>,
    /// By the methods, in the order of the descriptors. There are few sets: one for each kind of grant.
    served: Arc<Mutex<HashMap<Vec<bool>, Routes>>>,
}

impl Reflection {
    /// Reflection over the descriptors that are built in.
    ///
    /// # Errors
    /// Where they do not decode; a test serves them.
    pub fn new(access: Access, methods: Methods) -> Result<Self, prost::DecodeError> {
        Ok(Self {
            access,
            methods,
            files: Arc::new(FileDescriptorSet::decode(DESCRIPTORS)?),
            served: Arc::default(),
        })
    }

    fn routes(&self, identity: &Identity) -> Option<Routes> {
        let allowed = |path: &str| {
            let need = self.methods.need(path);
            need.is_some_and(|need| self.access.allows(identity, &need))
        };
        let (mut files, mut set) = ((*self.files).clone(), Vec::new());
        for file in &mut files.file {
            keep(file, &mut |path| {
                set.push(allowed(path));
                set.last() == Some(&true)
            });
        }
        let mut served = self.served.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(routes) = served.get(&set) {
            return Some(routes.clone());
        }
        let routes = reflecting(&files).ok()?;
        served.insert(set, routes.clone());
        Some(routes)
    }
}

/// Drops the methods that are not wanted, and services that have none left.
fn keep(file: &mut FileDescriptorProto, wanted: &mut impl FnMut(&str) -> bool) {
    let package = file.package().to_owned();
    for service in &mut file.service {
        let name = service.name().to_owned();
        service
            .method
            .retain(|method| wanted(&format!("/{package}.{name}/{}", method.name())));
    }
    file.service.retain(|service| !service.method.is_empty());
    // Comments are addressed by the place of what they describe, which may have changed.
    file.source_code_info = None;
}

fn reflecting(files: &FileDescriptorSet) -> Result<Routes, tonic_reflection::server::Error> {
    let bytes = files.encode_to_vec();
    let builder = || {
        tonic_reflection::server::Builder::configure()
            .register_encoded_file_descriptor_set(&bytes)
            .register_encoded_file_descriptor_set(tonic_health::pb::FILE_DESCRIPTOR_SET)
            .register_encoded_file_descriptor_set(tonic_types::pb::FILE_DESCRIPTOR_SET)
    };
    Ok(Routes::new(builder().build_v1()?)
        .add_service(builder().build_v1alpha()?)
        .prepare())
}

impl Service<http::Request<axum::body::Body>> for Reflection {
    type Response = http::Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<'static, Result<Self::Response, Infallible>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, request: http::Request<axum::body::Body>) -> Self::Future {
        let peer = request.extensions().get::<Peer>();
        let routes = peer.and_then(|peer| self.routes(&peer.identity));
        Box::pin(async move {
            let internal = || status(Reason::Internal.into()).into_http();
            let Some(routes) = routes else {
                return Ok(internal());
            };
            let answer = routes.oneshot(request.map(Body::new)).await;
            Ok(answer.unwrap_or_else(|_| internal()))
        })
    }
}
