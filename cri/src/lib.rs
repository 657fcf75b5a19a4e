//! The Kubernetes CRI v1 endpoint: gRPC services over a unix socket, without knowing what runs the containers.
//!
//! A node implements [`Backend`]; [`serve`] answers kubelet with it. The server checks of a message what it needs itself: ids,
//! names, deadlines. What the rest of a configuration means is for the backend to say. README.md has a row for each call of
//! the API.

pub mod backend;
pub mod call;
mod connections;
pub mod error;
mod filter;
mod image;
mod lanes;
mod limits;
mod runtime;
mod server;
mod single_flight;
mod status;
mod validate;
mod workers;

pub use backend::{Backend, ImageBackend, RuntimeBackend};
pub use call::Call;
pub use connections::serve;
pub use error::{Error, Kind, Result};
pub use limits::Limits;

/// What turns messages into bytes and back, for those who store them.
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

    /// Shows what tells two logins apart, never a secret.
    impl std::fmt::Debug for AuthConfig {
        fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
            f.debug_struct("AuthConfig")
                .field("username", &self.username)
                .field("server_address", &self.server_address)
                .finish_non_exhaustive()
        }
    }
}

/// The largest message of the CRI, in bytes: kubelet and crictl accept no larger one, and neither do we.
pub const MESSAGE_LIMIT: usize = 16 << 20;
