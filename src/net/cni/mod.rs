//! The Container Network Interface (CNI): plugins are programs that connect a network namespace. SPEC(cni 1.1.0)
//!
//! Configurations are read at each use: it is one small file, and an operator's change takes effect at once. Each
//! attachment is recorded, so that it is detached with the configuration that attached it, also when its namespace is
//! gone. Records survive a reboot, which ends the namespaces, because what plugins keep on disk survives it too: the address
//! leases of host-local, for example. [`Cni::collect_garbage`] detaches what a reboot, or a kill, has left.

mod attach_result;
mod attachment;
mod cache;
mod chain;
mod network;
mod plugin;
mod version;

#[cfg(test)]
mod tests;

use std::path::{Path, PathBuf};
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

pub use attach_result::AttachResult;
pub use attachment::{Attachment, Bandwidth, Capabilities, Dns, PortMapping};
pub use network::Network;

use crate::error::{Error, Kind, Result};
use cache::{Entry, Record};
use chain::Chain;

/// Directories and time limits of CNI.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directories with network configurations; the first with a usable one is used.
    pub configurations: Vec<PathBuf>,
    /// Directories with plugins, searched in order.
    pub plugins: Vec<PathBuf>,
    /// The directory for the records of attached interfaces.
    pub records: PathBuf,
    /// How long one plugin may run.
    pub patience: Duration,
}

impl Default for Settings {
    /// The usual directories, then those of K3s and MicroK8s.
    fn default() -> Self {
        let paths = |list: &[&str]| list.iter().map(PathBuf::from).collect();
        Self {
            configurations: paths(&[
                "/etc/cni/net.d",
                "/var/lib/rancher/k3s/agent/etc/cni/net.d",
                "/var/snap/microk8s/current/args/cni-network",
            ]),
            plugins: paths(&[
                "/opt/cni/bin",
                "/usr/lib/cni",
                "/var/lib/rancher/k3s/data/cni",
                "/var/lib/rancher/k3s/data/current/bin",
                "/var/snap/microk8s/current/opt/cni/bin",
            ]),
            records: PathBuf::from("/var/lib/coracle/cni"),
            patience: Duration::from_secs(60),
        }
    }
}

/// The CNI networks of this node.
#[derive(Debug, Default)]
pub struct Cni {
    settings: Settings,
    /// Locked for reading while an interface is attached or detached, for writing while stale ones are collected.
    sweeping: RwLock<()>,
}

impl Cni {
    /// The networks in the directories of `settings`.
    pub fn new(settings: Settings) -> Self {
        Self { settings, sweeping: RwLock::new(()) }
    }

    /// The network that pods are attached to.
    ///
    /// # Errors
    /// `NotFound` when no directory has a usable configuration; the message says why each existing one is unusable.
    pub fn network(&self) -> Result<Network> {
        let network = Network::load(&self.settings.configurations)?;
        let version = chain::choose_version(&self.settings, &network)
            .map_err(|e| e.doing(format!("use the network {}", network.name())))?;
        Ok(network.with_version(version.as_str()))
    }

    /// Attaches a namespace to the network. When a plugin fails, the plugins before it are undone.
    ///
    /// # Errors
    /// When there is no network, or a plugin fails, hangs or is missing.
    pub fn add(&self, attachment: &Attachment) -> Result<AttachResult> {
        attachment.check()?;
        let _guard = self.sweeping.read().unwrap_or_else(PoisonError::into_inner);
        let network = self.network()?;
        let record = Record::new(attachment, &network);
        let chain = self.chain(&record)?;
        chain.find_all()?;
        // Saved before the first plugin runs, so that an attachment that is interrupted by a crash can be undone.
        record.save(&self.settings.records)?;
        let added = chain.add().and_then(|result| {
            record.with_result(result.clone()).save(&self.settings.records)?;
            AttachResult::of(&result, &attachment.interface)
        });
        added.inspect_err(|_| {
            // If undoing fails, the record stays for the next DEL or garbage collection.
            if chain.delete().is_ok() {
                let _ = record.remove(&self.settings.records);
            }
        })
    }

    /// Detaches the interface of this container; an interface that was never attached and a missing namespace are no
    /// errors. Without a readable record, DEL runs with the network that is configured now and without a result of ADD.
    ///
    /// # Errors
    /// When a plugin fails; the record stays, so that DEL can be retried.
    pub fn delete(&self, attachment: &Attachment) -> Result<()> {
        attachment.check()?;
        let _guard = self.sweeping.read().unwrap_or_else(PoisonError::into_inner);
        match Record::load(&self.settings.records, &attachment.container, &attachment.interface) {
            Ok(Some(record)) => self.delete_record(&record),
            Ok(None) => Ok(()),
            Err(error) if error.kind() == Kind::Corrupt => self.delete_unrecorded(attachment, &error),
            Err(error) => Err(error),
        }
    }

    /// As [`Cni::delete`], for an interface that is known to be attached: without a record, DEL runs all the same.
    ///
    /// # Errors
    /// As in `delete`.
    pub fn delete_attached(&self, attachment: &Attachment) -> Result<()> {
        match Record::load(&self.settings.records, &attachment.container, &attachment.interface) {
            Ok(None) => {
                attachment.check()?;
                let _guard = self.sweeping.read().unwrap_or_else(PoisonError::into_inner);
                let lost =
                    Error::new(Kind::NotFound, format!("container {} has no record", attachment.container));
                self.delete_unrecorded(attachment, &lost)
            }
            _ => self.delete(attachment),
        }
    }

    /// What the last plugin returned when this interface was attached, as CNI specifies it; none if that is not known.
    pub fn result(&self, container: &str, interface: &str) -> Option<serde_json::Value> {
        Record::load(&self.settings.records, container, interface).ok()??.result
    }

    /// Returns whether pods can be attached now: there is a usable configuration, its plugins are installed, and those
    /// that support STATUS (CNI 1.1) report readiness.
    ///
    /// # Errors
    /// The missing part, or the error of a plugin.
    pub fn status(&self) -> Result<()> {
        let network = self.network()?;
        let nobody = Attachment::default();
        self.chain(&Record::new(&nobody, &network))?.status()
    }

    /// Moves in the records from where an earlier release kept them.
    ///
    /// # Errors
    /// One cannot be read or written; those before it were moved.
    pub fn take_over(&self, former: &Path) -> Result<()> {
        let _guard = self.sweeping.write().unwrap_or_else(PoisonError::into_inner);
        cache::move_all(former, &self.settings.records)
    }

    /// Detaches every interface that is not among `alive`, which lists containers and their interfaces, and runs GC in
    /// plugins that support it (CNI 1.1). Continues after a failure.
    ///
    /// # Errors
    /// The first failure.
    pub fn collect_garbage(&self, alive: &[(String, String)]) -> Result<()> {
        let _guard = self.sweeping.write().unwrap_or_else(PoisonError::into_inner);
        let is_alive = |container: &String, interface: &String| {
            alive.iter().any(|(c, i)| (c, i) == (container, interface))
        };
        let mut first = Ok(());
        for entry in cache::all(&self.settings.records)? {
            first = first.and(match entry {
                Entry::Readable(record) if !is_alive(&record.container, &record.interface) => {
                    self.delete_record(&record)
                }
                Entry::Damaged(of, error) if !is_alive(&of.container, &of.interface) => {
                    self.delete_unrecorded(&of, &error)
                }
                Entry::Readable(_) | Entry::Damaged(..) => Ok(()),
            });
        }
        match self.network() {
            Ok(network) => {
                let nobody = Attachment::default();
                first.and(self.chain(&Record::new(&nobody, &network))?.collect_garbage(alive))
            }
            // Without a network there is nothing to free.
            Err(e) if e.kind() == Kind::NotFound => first,
            Err(e) => first.and(Err(e)),
        }
    }

    /// # Errors
    /// When a plugin fails; the record stays, so that DEL can be retried.
    fn delete_record(&self, record: &Record) -> Result<()> {
        let doing = |e: Error| {
            e.doing(format!("detach {} of container {} from its network", record.interface, record.container))
        };
        match self.chain(record) {
            Ok(chain) => chain.delete().map_err(doing)?,
            // Its network is not one that ADD could have used, so the record is damaged although it is valid JSON.
            Err(error) if error.kind() == Kind::Invalid => {
                return self.delete_unrecorded(&record.attachment(), &error);
            }
            Err(error) => return Err(doing(error)),
        }
        record.remove(&self.settings.records)
    }

    /// Detaches an interface whose record is damaged or lost, with the network that is configured now. A retry would know no
    /// more than this attempt, so the record is removed even if a plugin fails, unless the plugin asks for a retry.
    ///
    /// # Errors
    /// `Busy` when a plugin asks for a retry; the record cannot be removed.
    fn delete_unrecorded(&self, attachment: &Attachment, why: &Error) -> Result<()> {
        let Attachment { container, interface, .. } = attachment;
        let doing = |e: Error| {
            e.doing(format!(
                "detach {interface} of container {container} without its record ({})",
                why.chain()
            ))
        };
        crate::log::warning(&format!(
            "detach {interface} of container {container} with the network that is configured now: {}",
            why.chain()
        ));
        let deleted = self.network().and_then(|network| {
            let record = Record::new(attachment, &network);
            self.chain(&record)?.delete()
        });
        match deleted {
            Err(error) if error.kind() == Kind::Busy => return Err(doing(error)),
            Err(error) => crate::log::warning(&doing(error).chain()),
            Ok(()) => {}
        }
        cache::remove(&self.settings.records, container, interface)
    }

    fn chain<'a>(&'a self, record: &'a Record) -> Result<Chain<'a>> {
        Chain::new(&self.settings, record)
    }
}
