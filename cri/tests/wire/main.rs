//! The endpoint as a client sees it: gRPC over a unix socket, with a fake node behind it. Needs no root.

#![expect(clippy::unwrap_used, clippy::expect_used, clippy::panic, reason = "a test fails by panicking")]

mod authority;
mod cadvisor;
mod client;
mod connection;
mod deadlines;
mod idempotency;
mod limits;
mod node;
mod raw;
mod refusals;
mod rpcs;
mod stream_client;
mod streaming;
mod streams;
