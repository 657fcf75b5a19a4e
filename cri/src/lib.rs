//! The Kubernetes CRI v1 endpoint: gRPC services over a unix socket, independent of what runs the containers.
//!
//! A node implements [`Backend`]; [`serve`] serves it to kubelet. The server checks only those parts of a message that it
//! needs itself: ids, names, deadlines. The backend checks the rest of a configuration. README.md has a row for each call
//! of the API.

pub mod backend;
pub mod call;
mod connections;
pub mod containerd;
pub mod error;
mod events;
mod filter;
mod image;
mod lanes;
mod limits;
mod lists;
mod parts;
mod response;
mod runtime;
mod server;
mod single_flight;
mod status;
pub mod streaming;
mod validate;
mod workers;

pub use backend::{Backend, ImageBackend, RuntimeBackend};
pub use call::Call;
pub use connections::{serve, serve_containerd};
pub use error::{Error, Kind, Result};
pub use events::EventHub;
pub use limits::Limits;
pub use streaming::Streaming;

/// Encodes and decodes messages, for backends that store them.
pub use prost::Message;

/// The messages and services of `proto/api.proto`, as prost and tonic generate them; the proto documents each.
#[expect(
    missing_docs,
    unused_qualifications,
    clippy::allow_attributes,
    clippy::allow_attributes_without_reason,
    clippy::doc_lazy_continuation,
    clippy::doc_overindented_list_items,
    clippy::too_many_lines,
    reason = "generated: api.proto is the documentation"
)]
pub mod v1 {
    tonic::include_proto!("runtime.v1");

    /// Shows enough to distinguish two logins, never a secret.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}

/// The limit of a CRI message in bytes, the same as that of kubelet and crictl.
pub const MESSAGE_LIMIT: usize = 16 << 20;

/// Whether a field is not set, which Go leaves out of JSON.
fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// Shows bytes as text.
fn as_text<S: serde::Serializer>(bytes: &[u8], to: S) -> Result<S::Ok, S::Error> {
    to.serialize_str(&String::from_utf8_lossy(bytes))
}
