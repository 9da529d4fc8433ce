//! Calling any register by its descriptors: nothing here names one.

use std::sync::OnceLock;

use prost::Message as _;
use prost_reflect::{
    DescriptorPool, DynamicMessage, MessageDescriptor, MethodDescriptor, ReflectMessage as _,
};
use tonic::{
    Status,
    codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder},
};

use crate::proto::DESCRIPTORS;

/// Every proto of this program.
///
/// # Panics
/// Never: the descriptors are built in, and a test decodes them.
#[must_use]
pub fn pool() -> &'static DescriptorPool {
    static POOL: OnceLock<DescriptorPool> = OnceLock::new();
    POOL.get_or_init(|| DescriptorPool::decode(DESCRIPTORS).unwrap_or_default())
}

/// A register, as its service describes it.
#[derive(Debug, Clone)]
pub struct RegisterApi {
    /// The collection: `risks`.
    pub id: String,
    /// `Risk`.
    pub singular: String,
    /// `Risks`.
    pub plural: String,
    /// The record's message.
    pub record: MessageDescriptor,
    methods: Vec<MethodDescriptor>,
}

impl RegisterApi {
    /// All registers: every service that submits, lists and withdraws.
    #[must_use]
    pub fn all() -> Vec<Self> {
        pool()
            .services()
            .filter_map(|service| Self::of(&service))
            .collect()
    }

    /// The register of a collection.
    #[must_use]
    pub fn find(id: &str) -> Option<Self> {
        Self::all().into_iter().find(|register| register.id == id)
    }

    /// The register that a record's name belongs to.
    #[must_use]
    pub fn of_name(name: &str) -> Option<Self> {
        Self::find(name.split('/').nth(2)?)
    }

    fn of(service: &prost_reflect::ServiceDescriptor) -> Option<Self> {
        let methods: Vec<_> = service.methods().collect();
        let withdraw = methods
            .iter()
            .find_map(|m| m.name().strip_prefix("Withdraw"))?
            .to_owned();
        let lists = |m: &MethodDescriptor| {
            let plural = m.name().strip_prefix("List")?.to_owned();
            (!plural.ends_with("Revisions")).then_some(plural)
        };
        let plural = methods.iter().find_map(lists)?;
        let record = format!("{}.{withdraw}", service.parent_file().package_name());
        let record = pool().get_message_by_name(&record)?;
        Some(Self {
            id: plural.to_lowercase(),
            singular: withdraw,
            plural,
            record,
            methods,
        })
    }

    /// A method: `verb` and `noun` as in `Submit`, `Risk`.
    #[must_use]
    pub fn method(&self, name: &str) -> Option<&MethodDescriptor> {
        self.methods.iter().find(|method| method.name() == name)
    }
}

/// The HTTP/2 path of a method.
#[must_use]
pub fn path(method: &MethodDescriptor) -> String {
    format!("/{}/{}", method.parent_service().full_name(), method.name())
}

/// Encodes and decodes dynamic messages.
#[derive(Debug, Clone)]
pub struct DynamicCodec(pub MessageDescriptor);

impl Codec for DynamicCodec {
    type Encode = DynamicMessage;
    type Decode = DynamicMessage;
    type Encoder = DynamicEncoder;
    type Decoder = Self;

    fn encoder(&mut self) -> DynamicEncoder {
        DynamicEncoder
    }

    fn decoder(&mut self) -> Self {
        self.clone()
    }
}

/// Encodes.
#[derive(Debug)]
pub struct DynamicEncoder;

impl Encoder for DynamicEncoder {
    type Item = DynamicMessage;
    type Error = Status;

    fn encode(&mut self, item: DynamicMessage, dst: &mut EncodeBuf<'_>) -> Result<(), Status> {
        // A client-side buffer grows as needed; an error here means a message over 2 GiB.
        item.encode(dst)
            .map_err(crate::services::status::unencodable)
    }
}

impl Decoder for DynamicCodec {
    type Item = DynamicMessage;
    type Error = Status;

    fn decode(&mut self, src: &mut DecodeBuf<'_>) -> Result<Option<DynamicMessage>, Status> {
        let decoded = DynamicMessage::decode(self.0.clone(), src);
        decoded
            .map(Some)
            .map_err(crate::services::status::undecodable)
    }
}

/// A message as JSON for people and programs: proto field names, unset fields left out.
#[must_use]
pub fn json(message: &DynamicMessage) -> serde_json::Value {
    let options = prost_reflect::SerializeOptions::new().use_proto_field_name(true);
    let mut bytes = Vec::new();
    let mut serializer = serde_json::Serializer::new(&mut bytes);
    match message.serialize_with_options(&mut serializer, &options) {
        Ok(()) => serde_json::from_slice(&bytes).unwrap_or_default(),
        Err(_) => serde_json::Value::Null,
    }
}

/// A typed message as a dynamic one.
#[must_use]
pub fn dynamic<M: prost::Message>(name: &str, message: &M) -> Option<DynamicMessage> {
    let descriptor = pool().get_message_by_name(name)?;
    DynamicMessage::decode(descriptor, message.encode_to_vec().as_slice()).ok()
}

/// A field of a message, as a message.
#[must_use]
pub fn sub(message: &DynamicMessage, field: &str) -> Option<DynamicMessage> {
    let held = message.descriptor().get_field_by_name(field)?;
    if !message.has_field(&held) {
        return None;
    }
    message.get_field(&held).as_message().cloned()
}

/// A field of a message, as text.
#[must_use]
pub fn text(message: &DynamicMessage, field: &str) -> String {
    let value = message.get_field_by_name(field);
    value
        .and_then(|value| value.as_str().map(str::to_owned))
        .unwrap_or_default()
}

/// The messages of a repeated field.
#[must_use]
pub fn subs(message: &DynamicMessage, field: &str) -> Vec<DynamicMessage> {
    let value = message.get_field_by_name(field);
    let list = value
        .as_ref()
        .and_then(|value| value.as_list())
        .unwrap_or_default();
    list.iter()
        .filter_map(|item| item.as_message().cloned())
        .collect()
}
