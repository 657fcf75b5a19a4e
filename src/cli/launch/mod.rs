//! `coracle launch`: from an image to a running container.

mod container;
mod detached;
mod devices;
mod flags;
mod limits;
mod mounts;

use std::os::fd::{AsRawFd, OwnedFd};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use oci_spec::image::Config as ImageConfig;
use oci_spec::runtime::{LinuxNamespaceType, Spec};

use super::Context;
use crate::error::{Doing, Error, Kind, Result};
use crate::id::ContainerId;
use crate::image::import::{ImportOptions, import, open_source};
use crate::image::platform::{self, Platform};
use crate::image::pull::{PullOptions, pull};
use crate::launch::NotExecuted;
use crate::oci::create::CreateOptions;
use crate::oci::run::{self, RunOptions};
use crate::oci::stop::STOP_SIGNAL;
use crate::record::{ContainerState, Layout};
use crate::spec::request::{ContainerRequest, MountSource, Profile, Scope};
use crate::spec::{self, Resolved, defaults, image_volumes, user};
use crate::store::reference::Reference;
use crate::store::{ImageRecord, Store};
use container::{ContainerDirectory, DirectoryLock};
pub(super) use detached::LOG;

/// Run a container from an image, in the foreground or detached
///
/// A missing image is pulled from its registry first, or imported from the path of an OCI layout or archive.
#[derive(Debug, clap::Args)]
pub struct LaunchArgs {
    /// Return when the container runs; the keeper attends it, see logs, attach, wait and stop
    #[arg(short, long)]
    detach: bool,
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Close standard input when the first attached client detaches
    #[arg(long, requires = "detach", requires = "interactive")]
    stdin_once: bool,
    /// Give the container a terminal
    #[arg(short, long)]
    tty: bool,
    /// Remove the container and its writable layer when it ends
    #[arg(long)]
    rm: bool,
    /// Name of the container; a random one by default
    #[arg(long)]
    name: Option<String>,
    /// Choose the image for another platform
    #[arg(long, value_name = "OS/ARCH[/VARIANT]")]
    platform: Option<String>,
    /// When to pull the image: if it is missing, always to see whether it has changed, or never
    #[arg(long, value_enum, default_value_t, value_name = "WHEN")]
    pull: PullPolicy,
    #[command(flatten)]
    registry: super::image::RegistryArgs,
    #[command(flatten)]
    container: flags::ContainerArgs,
    /// The name of an image, or the path of an OCI layout or archive
    #[arg(value_name = "IMAGE|PATH")]
    image: String,
    /// Command and arguments, instead of the image's
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "COMMAND")]
    command: Vec<String>,
}

/// When an image is pulled before its launch.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
enum PullPolicy {
    Always,
    #[default]
    Missing,
    Never,
}

/// The cgroup above those of containers that name none.
const CGROUP_PARENT: &str = "/coracle";

const NOT_EXECUTABLE: u8 = 126;
const NOT_FOUND: u8 = 127;

/// Runs `coracle launch`.
///
/// # Errors
/// None: errors are reported here, because launch has an exit code of its own.
pub fn run(context: &Context, args: &LaunchArgs) -> Result<ExitCode> {
    match launch(context, args) {
        Ok(code) => Ok(ExitCode::from(u8::try_from(code).unwrap_or(u8::MAX))),
        Err(error) => {
            super::report::error(&error);
            Ok(ExitCode::from(own_code(&error)))
        }
    }
}

/// Whether the error is that the payload could not be executed.
fn own_code(error: &Error) -> u8 {
    let source = std::error::Error::source(error);
    match (source.is_some_and(|source| source.is::<NotExecuted>()), error.kind()) {
        (true, Kind::NotFound) => NOT_FOUND,
        (true, _) => NOT_EXECUTABLE,
        (false, _) => super::LAUNCH_FAILURE,
    }
}

/// A container that is about to be created.
struct PreparedLaunch {
    id: ContainerId,
    spec: Spec,
    container: ContainerDirectory,
    create: CreateOptions,
}

fn launch(context: &Context, args: &LaunchArgs) -> Result<i32> {
    let prepared = prepare(context, args)?;
    if args.detach {
        return detached::launch(context, args, prepared).map(|()| 0);
    }
    let PreparedLaunch { id, spec, container, create } = prepared;
    if !args.interactive && !args.tty {
        let null = std::fs::File::open("/dev/null").doing(|| "open /dev/null")?;
        crate::sys::process::dup_onto(std::os::fd::AsFd::as_fd(&null), 0).doing(|| "close standard input")?;
    }
    let options = RunOptions { create, ..RunOptions::default() };
    let code = run::run(&context.runtime(), &id, &spec, &options);
    container.finish()?;
    code
}

fn prepare(context: &Context, args: &LaunchArgs) -> Result<PreparedLaunch> {
    let store = Store::open(&context.store)?;
    let image = find_image(&store, args)?;
    let config = store.config(&image)?.config().clone().unwrap_or_default();
    let name = args.name.clone().map_or_else(container::random_name, Ok)?;
    let id = ContainerId::parse(&name)?;
    let mut request = args.container.request(&args.command, args.tty)?;
    request.hostname.get_or_insert_with(|| short_name(id.as_str()));
    if let Some(signal) = config.stop_signal() {
        request.annotations.entry(STOP_SIGNAL.to_owned()).or_insert_with(|| signal.clone());
    }
    let container = ContainerDirectory::make(&context.runtime(), &store, &image, &id, args.rm)?;
    let root = crate::image::rootfs::mount(&store.lower_dirs(&image), container.directory(), args.rm)?;
    let resolved = resolve(&request, config, &container, &root, &id)?;
    let spec = spec::build(&request, &resolved)?;
    // Last, so that a launch that is refused leaves no directory behind.
    flags::make_sources(&request.mounts)?;
    let create = CreateOptions {
        bundle: container.directory().to_owned(),
        root: Some(std::sync::Arc::new(root)),
        ..CreateOptions::default()
    };
    Ok(PreparedLaunch { id, spec, container, create })
}

/// Resolves everything the request refers to in the image and on this host.
fn resolve(
    request: &ContainerRequest,
    image: ImageConfig,
    container: &ContainerDirectory,
    root: &OwnedFd,
    id: &ContainerId,
) -> Result<Resolved> {
    let inside = PathBuf::from(format!("/proc/self/fd/{}", root.as_raw_fd()));
    let databases = user::Databases::read(&inside)?;
    let of_image = image.user().as_deref().unwrap_or_default();
    let host_network = request.namespaces.network == Scope::Host;
    let hostname = request.hostname.clone().unwrap_or_default();
    let is_covered = |path: &Path| spec::mounts::is_covered(request, path);
    let directory = container.directory();
    let parent = request.cgroup_parent.clone().unwrap_or_else(|| PathBuf::from(CGROUP_PARENT));
    let kinds =
        defaults::NAMESPACES.into_iter().filter(|kind| !host_network || *kind != LinuxNamespaceType::Network);
    Ok(Resolved {
        root: directory.join("root"),
        user: user::resolve(&request.user, &request.groups, of_image, &databases)?,
        namespaces: kinds.map(|kind| spec::namespace(kind, None)).collect(),
        cgroup: Some(parent.join(id.as_str())),
        files: container.write_files(&hostname, host_network)?,
        sources: request.mounts.iter().map(|mount| source(&mount.source)).collect(),
        image_volumes: image_volumes::of_image(
            &image,
            &is_covered,
            request.read_only_root,
            directory,
            &inside,
        )?,
        devices: spec::devices::resolve(request)?,
        seccomp: spec::security::seccomp(request)?,
        apparmor: match &request.apparmor {
            Profile::Localhost(name) => Some(name.clone()),
            Profile::RuntimeDefault | Profile::Unconfined => None,
        },
        selinux_label: request.selinux_label.clone(),
        hostname: Some(hostname),
        image,
    })
}

/// The flags cannot name images to mount, so each source is a path or a tmpfs.
fn source(source: &MountSource) -> PathBuf {
    match source {
        MountSource::Host(path) => path.clone(),
        MountSource::Tmpfs | MountSource::Image { .. } => PathBuf::from("tmpfs"),
    }
}

/// The default host name as in docker: the first twelve characters of the id.
fn short_name(id: &str) -> String {
    id.chars().take(12).collect()
}

/// Finds the image by name, or imports it from a path; fast if the store has it.
fn find_image(store: &Store, args: &LaunchArgs) -> Result<ImageRecord> {
    let wanted = args.platform.as_deref().map(platform::parse).transpose()?;
    let path = Path::new(&args.image);
    let says_path = args.image.starts_with(['/', '.']) || args.image == "-";
    if !says_path && !is_image_path(path) {
        let stored = store.find(&args.image).and_then(|image| match &wanted {
            Some(wanted) if platform::rank(&image.platform, wanted).is_none() => {
                let what = format!("the image {} here is for {}", args.image, image.platform);
                Err(Error::new(Kind::NotFound, what))
            }
            _ => Ok(image),
        });
        return match (stored, args.pull) {
            (Ok(image), PullPolicy::Missing | PullPolicy::Never) => Ok(image),
            (Err(error), PullPolicy::Missing) if error.kind() == Kind::NotFound => {
                pull_image(store, args, wanted)
            }
            (_, PullPolicy::Always) => pull_image(store, args, wanted),
            (Err(error), PullPolicy::Missing | PullPolicy::Never) => Err(match error.kind() {
                Kind::NotFound => error.hint(format!("pull it first: coracle image pull {}", args.image)),
                _ => error,
            }),
        };
    }
    let options = ImportOptions { platform: wanted, ..ImportOptions::default() };
    let progress = super::image::progress();
    let images = import(store, open_source(path)?, &options, &*progress)?;
    match <[ImageRecord; 1]>::try_from(images) {
        Ok([image]) => Ok(image),
        Err(images) => {
            let names: Vec<String> = images.iter().flat_map(|i| i.names.clone()).collect();
            Err(Error::invalid(format!("{} holds {} images: {}", args.image, images.len(), names.join(", ")))
                .hint("all are imported: launch one by its name"))
        }
    }
}

/// Pulls the image.
fn pull_image(store: &Store, args: &LaunchArgs, platform: Option<Platform>) -> Result<ImageRecord> {
    let reference = Reference::parse(&args.image)?;
    let (registry, policy) = (args.registry.options()?, args.registry.policy());
    let options = PullOptions { platform, registry, policy, ..PullOptions::default() };
    let pulled = pull(store, &reference, &options, &*super::image::progress())?;
    pulled.images.into_iter().next().ok_or_else(|| Error::new(Kind::NotFound, "the pull returned no image"))
}

/// Without a leading `./` it is a path only if an image is there.
fn is_image_path(path: &Path) -> bool {
    path.join("index.json").exists() || path.join("manifest.json").exists() || path.is_file()
}

/// Which container of a name `coracle rm` removes.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Removal {
    /// One that runs is killed.
    Forced,
    /// One that runs is not removed.
    OfStopped,
    /// Only the one with this first process, as the keeper names it ([`crate::keeper::ENDED_PROCESS`]).
    OfEnded(String),
}

/// Whether the container of this name has, or had, this first process. One without a record may have had it.
fn is_of_process(context: &Context, id: &ContainerId, process: &str) -> bool {
    let Ok(state) = ContainerState::load(&Layout::new(&context.root, id)) else { return true };
    process == format!("{} {}", state.init_process_pid, state.init_process_start)
}

/// Removes a launched container: `coracle rm`.
///
/// # Errors
/// `NotFound` when it does not exist, `WrongState` when it still runs and `force` is not set.
pub(super) fn remove(context: &Context, id: &ContainerId, which: &Removal) -> Result<()> {
    let store = Store::open(&context.store)?;
    let directory = store.container_dir(id);
    let runtime = context.runtime();
    let force = *which == Removal::Forced;
    if !directory.exists() {
        return Err(Error::new(Kind::NotFound, "there is no such launched container")
            .hint("containers of `coracle create` are removed by `coracle delete`"));
    }
    // Its launch holds the lock, and lets it go once the container is killed.
    let may_be_killed = force && crate::oci::delete::delete(&runtime, id, true).is_ok();
    let patience = if may_be_killed { container::PATIENCE } else { Duration::from_secs(1) };
    let lock = match (DirectoryLock::take(&directory, patience)?, which) {
        (Some(lock), _) => lock,
        // Another launch has the name, or it was removed meanwhile, as was asked.
        (None, Removal::OfEnded(_)) => return Ok(()),
        (None, _) if !directory.exists() => return Ok(()),
        (None, _) => {
            return Err(Error::new(Kind::WrongState, "it is running").hint("stop it first, or use --force"));
        }
    };
    // From here on no other container gets the name.
    let is_meant = match which {
        // The record of one that ran in the foreground is gone by now, but only an ephemeral one is anybody's to remove.
        Removal::OfEnded(process) => {
            container::is_ephemeral(&directory) && is_of_process(context, id, process)
        }
        Removal::Forced | Removal::OfStopped => true,
    };
    if !is_meant {
        return Ok(());
    }
    match crate::oci::delete::delete(&runtime, id, force) {
        // Remove what a launch left behind that was killed before it wrote its record.
        Err(e) if e.kind() == Kind::NotFound => crate::oci::delete::delete(&runtime, id, true)?,
        other => other?,
    }
    lock.remove()
}
