//! The Container Network Interface: plugins are programs that connect a network namespace. SPEC(cni 1.1.0)
//!
//! Configurations are read at each use: they are one small file, and what an operator changes counts at once. What was
//! attached is kept in a record, so that it is detached with the configuration it was attached with, or when its namespace
//! is gone. Records lie in memory: a reboot takes them along with the namespaces, and what plugins keep on disk of
//! containers that are gone is freed by [`Cni::collect_garbage`], by those that know GC (CNI 1.1).

mod attachment;
mod cache;
mod chain;
mod network;
mod outcome;
mod plugin;
mod version;

#[cfg(test)]
mod tests;

use std::path::PathBuf;
use std::sync::{PoisonError, RwLock};
use std::time::Duration;

pub use attachment::{Attachment, Bandwidth, Capabilities, Dns, PortMapping};
pub use network::Network;
pub use outcome::Outcome;

use crate::error::{Error, Kind, Result};
use cache::Record;
use chain::Chain;

/// Where to look, and how long to wait.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Directories with network configurations; the first that has a usable one counts.
    pub configurations: Vec<PathBuf>,
    /// Directories with plugins, searched in order.
    pub plugins: Vec<PathBuf>,
    /// The directory of the records of what is attached.
    pub records: PathBuf,
    /// How long one plugin may take.
    pub patience: Duration,
}

impl Default for Settings {
    /// The usual directories, then those of K3s and of MicroK8s.
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
            records: PathBuf::from("/run/coracle/cni"),
            patience: Duration::from_secs(60),
        }
    }
}

/// The networks of this node.
#[derive(Debug, Default)]
pub struct Cni {
    settings: Settings,
    /// Read while something is attached or detached, written while what is stale is looked for.
    sweeping: RwLock<()>,
}

impl Cni {
    /// The networks that these settings lead to.
    pub fn new(settings: Settings) -> Self {
        Self { settings, sweeping: RwLock::new(()) }
    }

    /// The network that pods are attached to.
    ///
    /// # Errors
    /// `NotFound` when no directory has a usable configuration; the message says what is wrong with those there are.
    pub fn network(&self) -> Result<Network> {
        let network = Network::load(&self.settings.configurations)?;
        let version = chain::settle(&self.settings, &network)
            .map_err(|e| e.doing(format!("use the network {}", network.name())))?;
        Ok(network.settled_on(version.as_str()))
    }

    /// Attaches a namespace to the network. All or nothing: when a plugin fails, the ones before it are undone.
    ///
    /// # Errors
    /// There is no network, or a plugin fails, hangs or is missing.
    pub fn add(&self, attachment: &Attachment) -> Result<Outcome> {
        attachment.check()?;
        let _guard = self.sweeping.read().unwrap_or_else(PoisonError::into_inner);
        let network = self.network()?;
        let record = Record::new(attachment, &network);
        let chain = self.chain(&record)?;
        chain.find_all()?;
        // Before the first plugin runs: whoever kills us leaves a trace of what has to be undone.
        record.save(&self.settings.records)?;
        let added = chain.add().and_then(|result| {
            record.with_result(result.clone()).save(&self.settings.records)?;
            Outcome::of(&result, &attachment.interface)
        });
        added.inspect_err(|_| {
            // A failed undoing keeps the record, for the next DEL or sweep.
            if chain.delete().is_ok() {
                let _ = record.remove(&self.settings.records);
            }
        })
    }

    /// Detaches what was attached for this container and interface; what never was is fine, and so is a namespace that
    /// is gone.
    ///
    /// # Errors
    /// A plugin fails; the record stays, so that it can be tried again.
    pub fn delete(&self, attachment: &Attachment) -> Result<()> {
        attachment.check()?;
        let _guard = self.sweeping.read().unwrap_or_else(PoisonError::into_inner);
        match Record::load(&self.settings.records, &attachment.container, &attachment.interface)? {
            Some(record) => self.delete_record(&record),
            None => Ok(()),
        }
    }

    /// Whether pods can be attached now: there is a usable configuration, its plugins are there, and those that can be
    /// asked (since CNI 1.1) say so.
    ///
    /// # Errors
    /// What is missing, or what a plugin says.
    pub fn status(&self) -> Result<()> {
        let network = self.network()?;
        let nobody = Attachment::default();
        self.chain(&Record::new(&nobody, &network))?.status()
    }

    /// Detaches what does not belong to one of `alive`, which are containers and their interfaces, and lets plugins that
    /// can (since CNI 1.1) free what nobody has any more. Goes on after a failure.
    ///
    /// # Errors
    /// The first failure.
    pub fn collect_garbage(&self, alive: &[(String, String)]) -> Result<()> {
        let _guard = self.sweeping.write().unwrap_or_else(PoisonError::into_inner);
        let mut first = Ok(());
        for record in Record::all(&self.settings.records)? {
            let is_alive = alive.iter().any(|(c, i)| (c, i) == (&record.container, &record.interface));
            if !is_alive {
                first = first.and(self.delete_record(&record));
            }
        }
        match self.network() {
            Ok(network) => {
                let nobody = Attachment::default();
                first.and(self.chain(&Record::new(&nobody, &network))?.collect_garbage(alive))
            }
            // No network, nothing of it to free.
            Err(e) if e.kind() == Kind::NotFound => first,
            Err(e) => first.and(Err(e)),
        }
    }

    fn delete_record(&self, record: &Record) -> Result<()> {
        let doing = |e: Error| {
            e.doing(format!("detach {} of container {} from its network", record.interface, record.container))
        };
        self.chain(record)?.delete().map_err(doing)?;
        record.remove(&self.settings.records)
    }

    fn chain<'a>(&'a self, record: &'a Record) -> Result<Chain<'a>> {
        Chain::new(&self.settings, record)
    }
}
