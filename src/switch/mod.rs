//! `coracle k3s` and `coracle microk8s`: makes a node's Kubernetes use Coracle in place of its containerd, and back.
//!
//! | file | what |
//! |---|---|
//! | `k3s`, `microk8s` | what is particular to each |
//! | `file` | changes of files, with their way back |
//! | `images` | images in containerd's store |
//! | `leftovers` | containerd's data, once it is not used any more |
//!
//! Each file that is written has a comment that says so, with a digest: `disable` removes what `enable` wrote, and refuses what
//! the user has changed since. Nothing else is kept, so each step can be repeated, and a node that was prepared offline, as the
//! files of an image, is like any other.

mod file;
mod images;
mod k3s;
mod leftovers;
mod microk8s;

use std::path::{Path, PathBuf};

use crate::check::{Row, Tree};
use crate::error::{Error, Kind, Result};
use crate::image::containerd;
use crate::pod::one_line;
use crate::serve::config::{self, Config};

pub use file::Change;
pub use images::{Carried, Images};

const SOCKET_PREFIX: &str = "unix://";

/// A distribution of Kubernetes that brings its own containerd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Distribution {
    /// K3s.
    K3s,
    /// Canonical's MicroK8s.
    MicroK8s,
}

/// The node: its files, and Coracle's configuration.
#[derive(Debug)]
pub struct Node {
    distribution: Distribution,
    tree: Tree,
    config: Config,
    settings: Option<k3s::Settings>,
    /// Why a configuration could not be read, where [`Node::read_to_disable`] has gone on without it.
    unreadable: Vec<Error>,
}

/// Coracle's configuration.
fn config_of(tree: &Tree) -> Result<Config> {
    let file = Path::new(config::FILE);
    let directory = file.parent().unwrap_or(Path::new("/"));
    let name = file.strip_prefix(directory).unwrap_or(file);
    let drop_ins = tree.names(directory.join("config.d"));
    let parts = drop_ins.iter().map(|part| Path::new("config.d").join(part));
    let place = tree.without_links(directory, parts.chain(["config.d".into(), name.to_owned()]))?;
    config::load(&place.join(name), false)
}

impl Node {
    /// Reads the node whose files are below `root`: `/`, or the files of an image. `store` replaces the configured store.
    ///
    /// # Errors
    /// A configuration of the distribution's or of Coracle's is not valid.
    pub fn read(distribution: Distribution, root: &Path, store: Option<&Path>) -> Result<Self> {
        let tree = Tree::open(root)?;
        let mut config = config_of(&tree)?;
        config.store = match store {
            Some(store) => store.to_owned(),
            None => tree.without_links(&config.store, crate::store::PARTS)?,
        };
        let settings = match distribution {
            Distribution::K3s => Some(k3s::Settings::read(&tree)?),
            Distribution::MicroK8s => None,
        };
        Ok(Self { distribution, tree, config, settings, unreadable: Vec::new() })
    }

    /// Like [`Node::read`], but goes on with defaults for what is not valid: to undo `enable` needs no configuration.
    ///
    /// # Errors
    /// `root` is not a directory.
    pub fn read_to_disable(distribution: Distribution, root: &Path, store: Option<&Path>) -> Result<Self> {
        let tree = Tree::open(root)?;
        let mut unreadable = Vec::new();
        let mut config = config_of(&tree).unwrap_or_else(|error| {
            unreadable.push(error);
            Config::default()
        });
        if let Some(store) = store {
            store.clone_into(&mut config.store);
        }
        let settings = (distribution == Distribution::K3s).then(|| {
            k3s::Settings::read(&tree).unwrap_or_else(|error| {
                unreadable.push(error);
                k3s::Settings::default()
            })
        });
        Ok(Self { distribution, tree, config, settings, unreadable })
    }

    /// Why a configuration was not read.
    pub fn unreadable(&self) -> &[Error] {
        &self.unreadable
    }

    /// Coracle's configuration; the store is below the root.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// The files.
    pub fn tree(&self) -> &Tree {
        &self.tree
    }

    /// What kubelet gets as its runtime.
    fn endpoint(&self) -> String {
        let is_strict = self.distribution == Distribution::MicroK8s && microk8s::is_strict(&self.tree);
        let socket = if is_strict { Path::new(microk8s::SOCKET) } else { &self.config.socket };
        format!("{SOCKET_PREFIX}{}", socket.display())
    }

    /// containerd's root, as the machine names it.
    fn containerd(&self) -> PathBuf {
        match &self.settings {
            Some(settings) => settings.containerd(),
            None => microk8s::CONTAINERD.into(),
        }
    }

    /// Whether the distribution uses Coracle from its next start on.
    pub fn is_enabled(&self) -> bool {
        match &self.settings {
            Some(settings) => k3s::is_enabled(self, settings),
            None => microk8s::is_enabled(self),
        }
    }

    fn is_installed(&self) -> bool {
        match self.distribution {
            Distribution::K3s => k3s::is_installed(&self.tree),
            Distribution::MicroK8s => microk8s::is_installed(&self.tree),
        }
    }

    fn name(&self) -> &'static str {
        match self.distribution {
            Distribution::K3s => "K3s",
            Distribution::MicroK8s => "MicroK8s",
        }
    }

    /// The changes of files that `enable` makes; none if all are made.
    ///
    /// # Errors
    /// `NotFound` without MicroK8s; `WrongState` for settings that a switch cannot go with; `Exists` for a file of the user's in the place
    /// of one of Coracle's.
    pub fn enable(&self) -> Result<Vec<Change>> {
        match &self.settings {
            Some(settings) => k3s::enable(self, settings),
            None => microk8s::enable(self),
        }
    }

    /// The changes of files that `disable` makes: those of `enable`, backwards.
    ///
    /// # Errors
    /// `Exists` or `WrongState` for what the user has changed since.
    pub fn disable(&self) -> Result<Vec<Change>> {
        match self.distribution {
            Distribution::K3s => k3s::disable(&self.tree),
            Distribution::MicroK8s => microk8s::disable(self),
        }
    }

    /// The commands that restart the node with the other runtime, without its pods of before.
    pub fn commands(&self, is_enable: bool) -> Vec<String> {
        match self.distribution {
            Distribution::K3s => k3s::commands(&self.tree, is_enable, &self.endpoint()),
            Distribution::MicroK8s => microk8s::commands(is_enable, &self.endpoint()),
        }
    }

    /// The images in containerd's store.
    ///
    /// # Errors
    /// `Corrupt` for a damaged store.
    pub fn images(&self) -> Result<Images> {
        let root = self.containerd();
        let place = self.tree.without_links(&root, [containerd::METADATA, containerd::CONTENT])?;
        Images::read(&place, &self.config.store)
    }

    /// containerd's data and its size in bytes; `None` if there is none.
    pub fn leftovers(&self) -> Option<(PathBuf, u64)> {
        let path = self.containerd();
        let size = leftovers::size(&self.tree.entry(&path).ok()?)?;
        Some((path, size))
    }

    /// Whether the distribution's containerd runs.
    pub fn is_containerd_running(&self) -> bool {
        self.tree.path(self.containerd()).is_ok_and(|path| leftovers::is_in_use(&path))
    }

    /// Removes containerd's data, and returns how many bytes that freed.
    ///
    /// # Errors
    /// `WrongState` if the node uses containerd, or containerd's data is in use.
    pub fn remove_leftovers(&self) -> Result<u64> {
        if let Some(error) = self.unreadable.first() {
            let doing = format!("remove containerd's data: {}", one_line(error));
            return Err(
                Error::new(Kind::WrongState, doing).hint("correct the configuration, which says where it is")
            );
        }
        let Some((path, size)) = self.leftovers() else { return Ok(0) };
        if !self.is_enabled() {
            let doing = format!("remove {}: {} uses containerd", path.display(), self.name());
            let verb = self.name().to_lowercase();
            return Err(
                Error::new(Kind::WrongState, doing).hint(format!("coracle {verb} enable comes first"))
            );
        }
        leftovers::remove(&self.tree, &path)?;
        Ok(size)
    }

    /// Whether the node is ready to be switched, or is switched.
    pub fn rows(&self) -> Vec<Row> {
        let name = self.name();
        let mut rows = vec![match self.is_installed() {
            true => Row::ok("Kubernetes", format!("{name} is installed")),
            false => Row::warning("Kubernetes", format!("{name} is not installed here")),
        }];
        rows.push(self.switch_row());
        rows.extend(self.settings.iter().flat_map(|settings| k3s::rows(&self.tree, settings)));
        rows.extend(self.image_row());
        rows.extend(self.leftover_row());
        rows
    }

    fn switch_row(&self) -> Row {
        let name = self.name();
        let plan = format!("coracle {} enable --dry-run", name.to_lowercase());
        let changes = match self.enable() {
            Ok(changes) => changes,
            Err(error) if error.kind() == Kind::NotFound => return Row::error("switch", one_line(&error)),
            Err(error) => {
                let hint = error.first_hint().unwrap_or("correct it, and try again").to_owned();
                return Row::error("switch", one_line(&error)).advise(hint);
            }
        };
        let is_begun = self.disable().map_or(true, |undo| !undo.is_empty());
        let other = match self.distribution {
            Distribution::K3s => None,
            Distribution::MicroK8s => microk8s::other_endpoint(&self.tree),
        };
        match (self.is_enabled(), other) {
            (true, _) if changes.is_empty() => {
                Row::ok("switch", format!("{name} uses Coracle at {}", self.endpoint()))
            }
            (is_enabled, _) if is_enabled || is_begun => {
                let missing: Vec<String> = changes.iter().map(Change::shown).collect();
                Row::warning(
                    "switch",
                    format!("{name} is only half switched; missing: {}", missing.join(", ")),
                )
                .advise(plan)
            }
            (_, Some(other)) => Row::not_applicable(
                "switch",
                format!("{name} uses the runtime at {other}, and can be switched"),
            )
            .advise(plan),
            (_, None) => {
                Row::not_applicable("switch", format!("{name} uses its own containerd, and can be switched"))
                    .advise(plan)
            }
        }
    }

    fn image_row(&self) -> Option<Row> {
        let images = match self.images() {
            Ok(images) => images,
            Err(error) => {
                return Some(
                    Row::warning("images", one_line(&error))
                        .advise("they cannot be imported, so they would be pulled again"),
                );
            }
        };
        let lost: Vec<String> = images.lost().map(|(name, why)| format!("{name} ({why})")).collect();
        match (images.is_empty(), lost.is_empty()) {
            (true, _) => None,
            (false, true) => Some(Row::ok("images", images.summary())),
            (false, false) => Some(
                Row::warning(
                    "images",
                    format!("{}; to be pulled again: {}", images.summary(), lost.join(", ")),
                )
                .advise("without a network, put archives of these into a directory of import_dirs first"),
            ),
        }
    }

    fn leftover_row(&self) -> Option<Row> {
        let (path, size) = self.leftovers().filter(|_| self.is_enabled())?;
        let verb = self.name().to_lowercase();
        Some(
            Row::warning(
                "leftovers",
                format!("{} has {} MB of containerd's", path.display(), size / 1_000_000),
            )
            .advise(format!("coracle {verb} enable --remove-containerd-data, once all pods run")),
        )
    }
}
