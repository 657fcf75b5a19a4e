//! ImageService on top of the store. The id of an image is always the digest of its configuration.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use coracle_cri::{Call, ImageBackend, v1};
use serde_json::{Value, json};

use super::archives::{Archives, Importing, Retry};
use super::config::Config;
use super::metrics::{CountedProgress, Pulls};
use super::progress::LogProgress;
use crate::digest::Digest;
use crate::error::{Error, Kind, Result};
use crate::image::pull::pull;
use crate::image::registry::{Cancel, Login};
use crate::linux::ids;
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Store};

/// How long ImageStatus waits for the import of archives; kubelet's timeout is two minutes.
const ARCHIVES_TIMEOUT: Duration = Duration::from_secs(100);

/// The images of this node.
#[derive(Debug)]
pub struct Images {
    store: Arc<Store>,
    /// The current configuration; see [`Images::reload`].
    config: RwLock<Arc<Config>>,
    archives: Arc<Archives>,
    /// The users of images by image id, a cache: each is read from the image's configuration once.
    users: Mutex<BTreeMap<Digest, String>>,
    /// Cancels the pulls that are running.
    pulls: Mutex<BTreeMap<u64, Cancel>>,
    counters: Arc<Pulls>,
}

impl Images {
    pub(super) fn new(store: Arc<Store>, config: Arc<Config>, counters: Arc<Pulls>) -> Self {
        let archives = Arc::new(Archives::open(store.root()));
        let config = RwLock::new(config);
        Self { store, config, archives, users: Mutex::default(), pulls: Mutex::default(), counters }
    }

    /// Replaces the configuration; calls under way keep the old one.
    pub(super) fn reload(&self, config: Arc<Config>) {
        *self.config.write().unwrap_or_else(PoisonError::into_inner) = config;
    }

    pub(super) fn config(&self) -> Arc<Config> {
        Arc::clone(&self.config.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// Begins an import, unless one is under way: until it ends, ImageStatus of a missing image waits for it.
    pub(super) fn begin_import(&self, retry: Retry) -> Option<Importing> {
        Importing::begin(&self.archives, retry)
    }

    pub(super) fn store(&self) -> &Store {
        &self.store
    }

    /// All images, or the one that `wanted` refers to.
    fn list(&self, wanted: Option<&v1::ImageSpec>) -> Result<Vec<v1::Image>> {
        let (all, config) = (self.store.images()?, self.config());
        let only = match wanted {
            None => None,
            Some(wanted) => match self.find(&wanted.image)? {
                Some(image) => Some(image.id),
                None => return Ok(Vec::new()),
            },
        };
        self.forget_users_but(&all);
        let pinned = self.archives.pinned();
        let mut seen = BTreeSet::new();
        let first = all.iter().filter(|image| only.is_none_or(|id| id == image.id) && seen.insert(image.id));
        Ok(first.map(|image| self.message(&config, &pinned, &with_id(&all, image.id))).collect())
    }

    /// The image that `wanted` refers to; a missing image is no error.
    fn status(&self, wanted: &v1::ImageSpec, verbose: bool) -> Result<v1::ImageStatusResponse> {
        let mut found = self.find(&wanted.image)?;
        if found.is_none() && self.archives.wait(ARCHIVES_TIMEOUT)? {
            found = self.find(&wanted.image)?;
        }
        let Some(image) = found else { return Ok(v1::ImageStatusResponse::default()) };
        let records = self.store.images()?;
        let message = self.message(&self.config(), &self.archives.pinned(), &with_id(&records, image.id));
        let info = if verbose { self.describe(&image)? } else { BTreeMap::new() };
        Ok(v1::ImageStatusResponse { image: Some(message), info })
    }

    /// Pulls an image and returns its id.
    fn pull(&self, wanted: &v1::ImageSpec, auth: Option<&v1::AuthConfig>, call: &Call) -> Result<String> {
        let (reference, config) = (Reference::parse(&wanted.image)?, self.config());
        let mut options = config.pull_options();
        options.registry.login = auth.map(|auth| login(auth, &reference)).transpose()?.flatten();
        let patience = Duration::from_secs(config.images.progress_timeout_seconds);
        options.registry.cancel = Cancel::after(patience);
        options.registry.resumes = Arc::clone(&self.counters.resumes);
        let running = RunningPull::begin(&self.pulls, &options.registry.cancel);
        call.on_cancel({
            let cancel = options.registry.cancel.clone();
            move || cancel.cancel()
        });
        let progress = CountedProgress { pulls: &self.counters, inner: LogProgress };
        let work = || pull(&self.store, &reference, &options, &progress);
        let pulled = self.counters.durations.time(work)?;
        drop(running);
        let image = pulled.images.first();
        let image = image.ok_or_else(|| Error::new(Kind::NotFound, "the image is missing after the pull"))?;
        Ok(image.id.to_string())
    }

    /// Cancels all pulls, before the process exits.
    pub(super) fn cancel_pulls(&self) {
        self.pulls.lock().unwrap_or_else(PoisonError::into_inner).values().for_each(Cancel::cancel);
    }

    /// Removes an image with all its names. A missing image is no error.
    fn remove(&self, wanted: &v1::ImageSpec) -> Result<()> {
        let Some(image) = self.find(&wanted.image)? else { return Ok(()) };
        let all = self.store.images()?;
        let manifests =
            with_id(&all, image.id).iter().map(|image| image.manifest.to_string()).collect::<Vec<_>>();
        match self.store.remove(&manifests) {
            // Another call has removed it in the meantime.
            Err(error) if error.kind() == Kind::NotFound => Ok(()),
            other => other.map(drop),
        }
    }

    /// The disk usage of images, from the store's records.
    fn fs_info(&self) -> Result<v1::ImageFsInfoResponse> {
        let (bytes, files) = self.store.size_of_layers()?;
        let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_nanos() as i64);
        let usage = v1::FilesystemUsage {
            timestamp: now,
            fs_id: Some(v1::FilesystemIdentifier { mountpoint: self.store.root().display().to_string() }),
            used_bytes: Some(v1::UInt64Value { value: bytes }),
            inodes_used: Some(v1::UInt64Value { value: files }),
        };
        // Images and writable layers are on the same file system.
        Ok(v1::ImageFsInfoResponse {
            image_filesystems: vec![usage.clone()],
            container_filesystems: vec![usage],
        })
    }

    fn find(&self, name: &str) -> Result<Option<ImageRecord>> {
        match self.store.find(name) {
            Err(error) if error.kind() == Kind::NotFound => Ok(None),
            found => found.map(Some),
        }
    }

    /// The CRI message for an image, from all records with its id: several manifests may have the same configuration.
    fn message(&self, config: &Config, pinned: &BTreeSet<Digest>, records: &[&ImageRecord]) -> v1::Image {
        let all = |of: fn(&ImageRecord) -> &Vec<String>| {
            records.iter().flat_map(|image| of(image)).cloned().collect::<BTreeSet<_>>()
        };
        let (names, digests) = (all(|image| &image.names), all(|image| &image.repo_digests));
        let id = records.first().map_or_else(String::new, |image| image.id.to_string());
        let user = records.first().map_or_else(String::new, |image| self.user(image));
        // `name:group` or `uid:gid`. A user that is not a valid id is reported as a name, so that kubelet's runAsNonRoot check
        // refuses the container instead of taking the user for non-root.
        let user = user.split(':').next().unwrap_or_default();
        let uid = ids::parse(user).map(i64::from);
        let is_pinned = records.iter().any(|image| pinned.contains(&image.id))
            || config.images.pinned.iter().any(|pin| is_meant(pin, &id, &names));
        v1::Image {
            // kubelet rejects an image whose size is 0.
            size: records.iter().map(|image| image.size_bytes).max().unwrap_or(0).max(1),
            repo_tags: names.into_iter().collect(),
            repo_digests: digests.into_iter().collect(),
            uid: uid.map(|value| v1::Int64Value { value }),
            username: if uid.is_some() { String::new() } else { user.to_owned() },
            spec: None,
            pinned: is_pinned,
            id,
        }
    }

    /// The user in the image's configuration; empty, which kubelet takes for root, if the configuration is damaged.
    fn user(&self, image: &ImageRecord) -> String {
        let lock = || self.users.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(user) = lock().get(&image.id) {
            return user.clone();
        }
        let Ok(config) = self.store.config(image) else { return String::new() };
        let user = config.config().as_ref().and_then(|config| config.user().clone()).unwrap_or_default();
        lock().insert(image.id, user.clone());
        user
    }

    fn forget_users_but(&self, images: &[ImageRecord]) {
        let mut users = self.users.lock().unwrap_or_else(PoisonError::into_inner);
        users.retain(|id, _| images.iter().any(|image| image.id == *id));
    }

    /// The verbose information that `crictl inspecti` shows.
    fn describe(&self, image: &ImageRecord) -> Result<BTreeMap<String, String>> {
        let config: Value = serde_json::from_slice(&self.store.blob(&image.id)?)
            .map_err(|error| Error::new(Kind::Corrupt, "read the image's configuration").because(error))?;
        let layers: Vec<String> =
            self.store.layers(image)?.iter().map(|layer| layer.diff_id.to_string()).collect();
        let info = json!({
            "manifest": image.manifest,
            "platform": image.platform,
            "layers": layers,
            "imageSpec": config,
        });
        Ok(BTreeMap::from([("info".to_owned(), info.to_string())]))
    }
}

impl ImageBackend for Images {
    fn list_images(&self, image: Option<&v1::ImageSpec>) -> coracle_cri::Result<Vec<v1::Image>> {
        Ok(self.list(image)?)
    }

    fn image_status(
        &self,
        image: &v1::ImageSpec,
        verbose: bool,
    ) -> coracle_cri::Result<v1::ImageStatusResponse> {
        Ok(self.status(image, verbose)?)
    }

    fn pull_image(
        &self,
        image: &v1::ImageSpec,
        auth: Option<&v1::AuthConfig>,
        call: &Call,
    ) -> coracle_cri::Result<String> {
        Ok(self.pull(image, auth, call)?)
    }

    fn remove_image(&self, image: &v1::ImageSpec) -> coracle_cri::Result<()> {
        Ok(self.remove(image)?)
    }

    fn image_fs_info(&self) -> coracle_cri::Result<v1::ImageFsInfoResponse> {
        Ok(self.fs_info()?)
    }
}

fn with_id(images: &[ImageRecord], id: Digest) -> Vec<&ImageRecord> {
    images.iter().filter(|image| image.id == id).collect()
}

/// Whether a pin in the configuration refers to this image.
fn is_meant(pin: &str, id: &str, names: &BTreeSet<String>) -> bool {
    if let Some(begin) = pin.strip_suffix('*') {
        return names.iter().any(|name| name.starts_with(begin));
    }
    let full = Reference::parse(pin).map(|reference| reference.to_string());
    pin == id || names.contains(pin) || full.is_ok_and(|full| names.contains(&full))
}

/// The login that kubelet sends. A login for another registry than the image's is ignored.
fn login(auth: &v1::AuthConfig, reference: &Reference) -> Result<Option<Login>> {
    let host = auth.server_address.trim_start_matches("https://").trim_start_matches("http://");
    let host = host.split('/').next().unwrap_or_default();
    let host = if host.ends_with(".docker.io") { "docker.io" } else { host };
    if !host.is_empty() && host != reference.registry() {
        return Ok(None);
    }
    if !auth.registry_token.is_empty() {
        return Ok(Some(Login::Bearer(auth.registry_token.clone())));
    }
    if !auth.identity_token.is_empty() {
        return Ok(Some(Login::Identity(auth.identity_token.clone())));
    }
    if !auth.username.is_empty() {
        let (username, password) = (auth.username.clone(), auth.password.clone());
        return Ok(Some(Login::Password { username, password }));
    }
    if auth.auth.is_empty() {
        return Ok(None);
    }
    let login = Login::of_encoded(&auth.auth);
    login
        .map(Some)
        .ok_or_else(|| Error::invalid("the `auth` of the request is not the base64 of name:password"))
}

/// Keeps a pull in the list of cancellable pulls until dropped.
struct RunningPull<'a> {
    all: &'a Mutex<BTreeMap<u64, Cancel>>,
    number: u64,
}

impl<'a> RunningPull<'a> {
    fn begin(all: &'a Mutex<BTreeMap<u64, Cancel>>, cancel: &Cancel) -> Self {
        static NEXT: AtomicU64 = AtomicU64::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        all.lock().unwrap_or_else(PoisonError::into_inner).insert(number, cancel.clone());
        Self { all, number }
    }
}

impl Drop for RunningPull<'_> {
    fn drop(&mut self) {
        self.all.lock().unwrap_or_else(PoisonError::into_inner).remove(&self.number);
    }
}
