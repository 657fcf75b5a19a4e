//! `image pull`: downloads and imports an image in one pass over the network.

use std::time::Duration;

use oci_spec::image::{Descriptor, MediaType};

use super::document::{self, Document};
use super::job::{ImportOptions, Job, name_full_disk, plan};
use super::layer::Limits;
use super::platform::{self, Platform};
use super::policy::{PolicyOptions, Rules};
use super::progress::Progress;
use super::registry::{Fetched, RegistryOptions, Repository};
use super::registry_source::RegistrySource;
use super::resolve::{self, Selected};
use crate::digest::Digest;
use crate::error::{Doing, Error, Kind, Result};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Store};

/// Partial downloads that were not resumed for this long are removed.
const PARTIAL_LIFE: Duration = Duration::from_secs(7 * 24 * 3600);
/// With less memory than this, in KiB, one layer is imported at a time.
const LOW_MEMORY: u64 = 128 << 10;

/// Options of a pull.
#[derive(Debug, Clone)]
pub struct PullOptions {
    /// The platform to choose; this machine's by default.
    pub platform: Option<Platform>,
    /// Also pull the images for all other platforms, for a machine that serves others.
    pub all_platforms: bool,
    /// Limits of the resources that a layer may use.
    pub limits: Limits,
    /// Access to the registry.
    pub registry: RegistryOptions,
    /// The import policy.
    pub policy: PolicyOptions,
    /// A layer of at least this many bytes is also written to `partial/` while it is downloaded, so that a restart can
    /// resume it.
    pub spool_above: u64,
}

impl Default for PullOptions {
    fn default() -> Self {
        Self {
            platform: None,
            all_platforms: false,
            limits: Limits::default(),
            registry: RegistryOptions::default(),
            policy: PolicyOptions::default(),
            spool_above: 256 << 20,
        }
    }
}

/// The result of a pull.
#[derive(Debug, Clone)]
pub struct Pulled {
    /// The image for the wanted platform first.
    pub images: Vec<ImageRecord>,
    /// The digest that the reference has at the registry: of a manifest or an index.
    pub digest: Digest,
    /// Nothing had to be downloaded.
    pub was_here: bool,
}

/// Pulls the image `reference` and makes it durable. Data that the store has is not requested again.
///
/// # Errors
/// `NotFound` when there is no such image, or none for the platform; `Denied` when the registry or the policy refuses;
/// `Unreachable` or `TimedOut` when no endpoint could be reached; `Corrupt` when bytes do not match their descriptor.
/// The store is unchanged then.
pub fn pull(
    store: &Store,
    reference: &Reference,
    options: &PullOptions,
    progress: &dyn Progress,
) -> Result<Pulled> {
    let import = ImportOptions {
        platform: options.platform.clone(),
        limits: options.limits,
        ..ImportOptions::default()
    };
    let wanted = options.platform.clone().unwrap_or_else(platform::host);
    let job = Job { store, options: &import, progress, wanted, heals: None };
    let run = || {
        let rules = Rules::read(&options.policy, reference)?;
        rules.check_early()?;
        let repository = Repository::new(&options.registry, reference, progress)?;
        Pull { job: &job, reference, options, rules: &rules, repository: &repository }.run()
    };
    run().map_err(|error| name_full_disk(error, store).doing(format!("pull {reference}")))
}

struct Pull<'p, 'a> {
    job: &'p Job<'a>,
    reference: &'p Reference,
    options: &'p PullOptions,
    rules: &'p Rules,
    repository: &'p Repository<'p>,
}

impl Pull<'_, '_> {
    fn run(&self) -> Result<Pulled> {
        if let Some(known) = self.unchanged()? {
            return Ok(known);
        }
        let found = match self.reference.digest() {
            Some(digest) => self.repository.by_digest(digest)?,
            None => self.repository.tagged(self.reference.tag().unwrap_or_default())?,
        };
        let mut source =
            RegistrySource::new(self.repository, self.job.store, self.job.progress, self.options.spool_above);
        source.know(&found);
        let top = self.descriptor(&found)?;
        let digest = found.digest;
        let selected = self.select(&top, digest, &source)?;
        for image in &selected {
            self.rules.check(self.reference, &top, image.manifest, self.repository)?;
        }
        let here = |images| Pulled { images, digest, was_here: true };
        if let Some(images) = self.job.known(&selected)? {
            return Ok(here(images));
        }
        let mut descriptors = Vec::new();
        for image in &selected {
            descriptors.extend(plan(image.clone(), &source)?.descriptors);
        }
        source.expect(descriptors);
        // A concurrent pull of the same layers does part of the work for this one.
        let blobs = source.descriptors().iter().map(|descriptor| descriptor.blob);
        let contents: Vec<Digest> = selected.iter().map(|image| image.manifest).chain(blobs).collect();
        let _claims = self.job.store.claim_all(&contents)?;
        if let Some(images) = self.job.known(&selected)? {
            return Ok(here(images));
        }
        self.job.store.sweep_partials(PARTIAL_LIFE)?;
        let mut layers = self.job.begin()?;
        layers.unpack_ahead(source.descriptors(), &source, parallel_layers())?;
        let images = self.job.finish(layers, selected, &source)?;
        for descriptor in source.descriptors() {
            self.job.store.end_partial(&descriptor.blob)?;
        }
        Ok(Pulled { images, digest, was_here: false })
    }

    /// The stored image, if the reference still means it.
    fn unchanged(&self) -> Result<Option<Pulled>> {
        if self.options.all_platforms || !self.rules.accept_all() {
            return Ok(None);
        }
        let image = match self.job.store.find(&self.reference.to_string()) {
            Err(error) if error.kind() == Kind::NotFound => return Ok(None),
            other => other?,
        };
        let fits = platform::rank(&image.platform, &self.job.wanted) == Some(0);
        // A damaged image is repaired by pulling it again.
        if !fits || !self.job.store.is_sound(&image)? {
            return Ok(None);
        }
        let digest = match (self.reference.digest(), self.reference.tag()) {
            (Some(digest), _) => Some(*digest),
            (None, Some(tag)) => match self.repository.digest_of_tag(tag) {
                // A registry without HEAD: the manifest itself says it.
                Err(error) if error.kind() == Kind::Unsupported => None,
                other => other?,
            },
            (None, None) => None,
        };
        let is_it = digest.is_some_and(|digest| image.repo_digests.contains(&self.name_of(&digest)));
        Ok(digest.filter(|_| is_it).map(|digest| Pulled { images: vec![image], digest, was_here: true }))
    }

    /// Selects the images and sets their names in the store.
    fn select(&self, top: &Descriptor, digest: Digest, source: &RegistrySource<'_>) -> Result<Vec<Selected>> {
        let name = self.reference.to_string();
        let choice = resolve::Choice {
            wanted: &self.job.wanted,
            strict: self.options.platform.is_some(),
            all: self.options.all_platforms,
            label: Some(&name),
        };
        let mut selected = resolve::select_from(top.clone(), source, &choice, self.job.progress)?;
        for (number, image) in selected.iter_mut().enumerate() {
            // Like docker and containerd: the requested digest, which may be that of an index.
            image.repo_digests = vec![self.name_of(if number == 0 { &digest } else { &image.manifest })];
            if number == 0 {
                // A digest identifies the image exactly; the tag beside it may mean another image by now.
                if self.reference.digest().is_none() {
                    image.names = vec![self.reference.to_string()];
                }
            }
        }
        Ok(selected)
    }

    fn name_of(&self, digest: &Digest) -> String {
        format!("{}/{}@{digest}", self.reference.registry(), self.reference.path())
    }

    fn descriptor(&self, found: &Fetched) -> Result<Descriptor> {
        let claimed = found.media_type.as_deref().filter(|claimed| claimed.starts_with("application/vnd."));
        let doing = || format!("read manifest {}", found.digest);
        let media_type = match document::parse(&found.bytes, claimed).doing(doing)? {
            Document::Index(_) => MediaType::ImageIndex,
            Document::Manifest(_) => MediaType::ImageManifest,
        };
        let digest = found.digest.to_string().parse::<oci_spec::image::Digest>();
        let digest = digest.map_err(|error| Error::new(Kind::Bug, "name a digest").because(error))?;
        Ok(Descriptor::new(media_type, found.bytes.len() as u64, digest))
    }
}

/// How many layers are unpacked at once: two keep network and processor busy; more only take memory.
fn parallel_layers() -> usize {
    let has_one_core = std::thread::available_parallelism().is_ok_and(|cores| cores.get() == 1);
    let memory = std::fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let total = memory
        .lines()
        .find_map(|line| line.strip_prefix("MemTotal:")?.split_whitespace().next()?.parse().ok());
    if has_one_core || total.is_some_and(|total: u64| total < LOW_MEMORY) { 1 } else { 2 }
}
