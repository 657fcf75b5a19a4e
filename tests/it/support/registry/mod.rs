//! A registry on 127.0.0.1 that the tests own: it serves image layouts as distribution-spec 1.1 says, and breaks where
//! a test tells it to.

mod answer;
mod auth;
mod certificates;
mod connection;
mod fault;

use std::collections::BTreeMap;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard};
use std::thread::JoinHandle;

use serde_json::Value;

pub(crate) use auth::Auth;
pub(crate) use certificates::Certificates;
pub(crate) use fault::Fault;

/// A running registry; it ends when dropped.
pub(crate) struct TestRegistry {
    address: SocketAddr,
    shared: Arc<Shared>,
    acceptor: Option<JoinHandle<()>>,
}

/// What all connections see.
pub(crate) struct Shared {
    tls: Option<Arc<rustls::ServerConfig>>,
    stop: AtomicBool,
    content: Mutex<Content>,
    faults: Mutex<Vec<fault::Rule>>,
    seen: Mutex<Vec<Seen>>,
    auth: Mutex<auth::State>,
}

#[derive(Default)]
struct Content {
    blobs: BTreeMap<String, Vec<u8>>,
    /// `repository/tag or digest` to media type and bytes.
    manifests: BTreeMap<String, (String, Vec<u8>)>,
}

/// One request, as it came.
#[derive(Debug, Clone)]
pub(crate) struct Seen {
    pub(crate) method: String,
    /// With the query.
    pub(crate) path: String,
    /// Names in lower case.
    pub(crate) headers: BTreeMap<String, String>,
    pub(crate) body: String,
}

impl TestRegistry {
    /// Speaks plain HTTP.
    pub(crate) fn start() -> Self {
        Self::listen("127.0.0.1:0", None)
    }

    /// Speaks plain HTTP on another loopback address, which makes it another host.
    pub(crate) fn start_at(ip: &str) -> Self {
        Self::listen(&format!("{ip}:0"), None)
    }

    /// Speaks TLS.
    pub(crate) fn start_tls(certificates: &Certificates) -> Self {
        Self::listen("127.0.0.1:0", Some(certificates.server_config()))
    }

    fn listen(at: &str, tls: Option<Arc<rustls::ServerConfig>>) -> Self {
        let listener = TcpListener::bind(at).unwrap();
        let address = listener.local_addr().unwrap();
        let shared = Arc::new(Shared {
            tls,
            stop: AtomicBool::new(false),
            content: Mutex::default(),
            faults: Mutex::default(),
            seen: Mutex::default(),
            auth: Mutex::default(),
        });
        let theirs = Arc::clone(&shared);
        let acceptor = std::thread::spawn(move || {
            for stream in listener.incoming() {
                if theirs.stop.load(Ordering::Relaxed) {
                    return;
                }
                let shared = Arc::clone(&theirs);
                std::thread::spawn(move || connection::serve(stream.unwrap(), &shared));
            }
        });
        Self { address, shared, acceptor: Some(acceptor) }
    }

    /// `host:port`.
    pub(crate) fn host(&self) -> String {
        self.address.to_string()
    }

    /// `http[s]://host:port`.
    pub(crate) fn url(&self) -> String {
        let scheme = if self.shared.tls.is_some() { "https" } else { "http" };
        format!("{scheme}://{}", self.address)
    }

    /// The full name of an image here.
    pub(crate) fn name(&self, image: &str) -> String {
        format!("{}/{image}", self.address)
    }

    /// Takes over all of a layout; its one image, or its index when it has several, gets the tag.
    pub(crate) fn serve(&self, files: &BTreeMap<String, Vec<u8>>, index: &Value, name: &str) -> String {
        let (repository, tag) = name.rsplit_once(':').unwrap();
        let blobs = files.iter().filter_map(|(path, bytes)| {
            Some((format!("sha256:{}", path.strip_prefix("blobs/sha256/")?), bytes.clone()))
        });
        self.content().blobs.extend(blobs);
        let entries = index["manifests"].as_array().unwrap();
        for entry in entries {
            let digest = entry["digest"].as_str().unwrap();
            let bytes = self.content().blobs[digest].clone();
            self.put_manifest(repository, digest, entry["mediaType"].as_str().unwrap(), bytes);
        }
        let (media_type, bytes) = match entries.as_slice() {
            [only] => {
                let digest = only["digest"].as_str().unwrap();
                (only["mediaType"].as_str().unwrap().to_owned(), self.content().blobs[digest].clone())
            }
            _ => ("application/vnd.oci.image.index.v1+json".to_owned(), serde_json::to_vec(index).unwrap()),
        };
        self.put_manifest(repository, tag, &media_type, bytes)
    }

    /// Puts a manifest under a tag or digest, and under its digest. Returns this.
    pub(crate) fn put_manifest(
        &self,
        repository: &str,
        tag: &str,
        media_type: &str,
        bytes: Vec<u8>,
    ) -> String {
        let digest = coracle::digest::Digest::of(&bytes).to_string();
        let mut content = self.content();
        for key in [tag, digest.as_str()] {
            content.manifests.insert(format!("{repository}/{key}"), (media_type.to_owned(), bytes.clone()));
        }
        digest
    }

    /// Puts a blob. Returns its digest.
    #[expect(dead_code, reason = "for signatures, which come next")]
    pub(crate) fn put_blob(&self, bytes: &[u8]) -> String {
        let digest = coracle::digest::Digest::of(bytes).to_string();
        self.content().blobs.insert(digest.clone(), bytes.to_vec());
        digest
    }

    /// Takes a blob away.
    pub(crate) fn remove_blob(&self, digest: &str) {
        self.content().blobs.remove(digest);
    }

    /// The next `times` requests whose path has `part` in it meet this fault.
    pub(crate) fn fault(&self, part: &str, times: usize, fault: Fault) {
        self.shared.faults.lock().unwrap().push(fault::Rule { part: part.to_owned(), times, fault });
    }

    /// No more faults.
    pub(crate) fn heal(&self) {
        self.shared.faults.lock().unwrap().clear();
    }

    /// What must be shown from now on.
    pub(crate) fn require(&self, auth: Auth) {
        *self.shared.auth.lock().unwrap() = auth::State::new(auth);
    }

    /// All requests so far.
    pub(crate) fn seen(&self) -> Vec<Seen> {
        self.shared.seen.lock().unwrap().clone()
    }

    /// How many requests had `part` in their path.
    pub(crate) fn count(&self, part: &str) -> usize {
        self.seen().iter().filter(|seen| seen.path.contains(part)).count()
    }

    /// Forgets all requests so far.
    pub(crate) fn forget(&self) {
        self.shared.seen.lock().unwrap().clear();
    }

    fn content(&self) -> MutexGuard<'_, Content> {
        self.shared.content.lock().unwrap()
    }
}

impl Drop for TestRegistry {
    fn drop(&mut self) {
        self.shared.stop.store(true, Ordering::Relaxed);
        // Wakes the acceptor; connections end by themselves.
        let _ = std::net::TcpStream::connect(self.address);
        if let Some(acceptor) = self.acceptor.take() {
            let _ = acceptor.join();
        }
    }
}
