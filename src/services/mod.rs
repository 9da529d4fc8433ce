//! The gRPC services, and the one place where errors become a status.

pub mod status;
