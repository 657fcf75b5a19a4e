//! The chain of a network's plugins: run forwards to attach, backwards to detach.

use serde_json::{Map, Value, json};

use super::Settings;
use super::attachment::Attachment;
use super::cache::Record;
use super::network::{Network, Plugin};
use super::plugin;
use super::version::Version;
use crate::error::{Doing, Error, Kind, Result};

/// The plugins of one record's network, ready to run for it.
pub(super) struct Chain<'a> {
    settings: &'a Settings,
    record: &'a Record,
    network: Network,
    version: Version,
}

/// Chooses the newest CNI version that the configuration offers and, if it offers several, all its plugins support.
pub(super) fn choose_version(settings: &Settings, network: &Network) -> Result<Version> {
    let versions = network.versions();
    if versions.len() == 1 {
        return Version::newest(&versions, |_| true);
    }
    let mut spoken = Vec::new();
    for plugin in network.plugins() {
        let program = plugin::find(&plugin.program, &settings.plugins)?;
        let doing = || format!("ask the network plugin {} for its versions", plugin.program);
        spoken.push(plugin::versions(&program, settings.patience).doing(doing)?);
    }
    Version::newest(&versions, |v| spoken.iter().all(|list| list.iter().any(|s| s == v)))
}

impl<'a> Chain<'a> {
    pub(super) fn new(settings: &'a Settings, record: &'a Record) -> Result<Self> {
        let network = Network::parse(record.network.clone())?;
        let version = choose_version(settings, &network)
            .map_err(|e| e.doing(format!("use the network {}", network.name())))?;
        Ok(Self { settings, record, network, version })
    }

    /// ADD: each plugin gets the result of the one before. Returns the last one's result.
    pub(super) fn add(&self) -> Result<Value> {
        let mut result: Option<Value> = None;
        for plugin in self.network.plugins() {
            let answer = self.run("ADD", plugin, result.as_ref(), Map::new())?;
            let nothing = || Error::new(Kind::System, "it succeeded but wrote no result");
            let named = |e: Error| e.doing(self.doing("ADD", plugin));
            result = Some(answer.ok_or_else(nothing).map_err(named)?);
        }
        result.ok_or_else(|| Error::invalid("the network has no plugins"))
    }

    /// DEL, backwards, with the result of ADD. After a failure the plugins before it still run; a plugin that does not
    /// know the container has not failed.
    pub(super) fn delete(&self) -> Result<()> {
        let result = self.record.result.as_ref().filter(|_| self.version.has_previous_result());
        let mut first = Ok(());
        for plugin in self.network.plugins().iter().rev() {
            match self.run("DEL", plugin, result, Map::new()) {
                Err(e) if e.kind() == Kind::NotFound && self.find(plugin).is_ok() => {}
                other => first = first.and(other.map(drop)),
            }
        }
        first
    }

    /// STATUS: checks that every plugin is installed and that those which support STATUS are ready.
    pub(super) fn status(&self) -> Result<()> {
        self.find_all()?;
        for plugin in self.network.plugins().iter().filter(|_| self.version.has_status()) {
            self.run("STATUS", plugin, None, Map::new())?;
        }
        Ok(())
    }

    /// Checks that every plugin is installed: a network that is still being installed must not be used half.
    pub(super) fn find_all(&self) -> Result<()> {
        self.network.plugins().iter().try_for_each(|plugin| self.find(plugin).map(drop))
    }

    /// GC, for plugins that support it: frees resources that belong to none of the `alive` attachments.
    pub(super) fn collect_garbage(&self, alive: &[(String, String)]) -> Result<()> {
        if !self.version.has_status() || !self.network.collects_garbage() {
            return Ok(());
        }
        let valid: Vec<_> = alive.iter().map(|(c, i)| json!({ "containerID": c, "ifname": i })).collect();
        let mut first = Ok(());
        for plugin in self.network.plugins() {
            let extra = [("cni.dev/valid-attachments".to_owned(), json!(valid))].into_iter().collect();
            first = first.and(self.run("GC", plugin, None, extra).map(drop));
        }
        first
    }

    fn run(
        &self,
        command: &str,
        plugin: &Plugin,
        previous: Option<&Value>,
        extra: Map<String, Value>,
    ) -> Result<Option<Value>> {
        let program = self.find(plugin)?;
        let mut input = self.input(plugin);
        input.extend(extra);
        if let Some(previous) = previous {
            input.insert("prevResult".to_owned(), previous.clone());
        }
        let variables = self.variables(command);
        plugin::run(&program, &variables, &Value::Object(input), self.settings.patience)
            .doing(|| self.doing(command, plugin))
    }

    fn find(&self, plugin: &Plugin) -> Result<std::path::PathBuf> {
        plugin::find(&plugin.program, &self.settings.plugins)
    }

    fn doing(&self, command: &str, plugin: &Plugin) -> String {
        format!("run {command} of the network plugin {} for {}", plugin.program, self.network.name())
    }

    /// The plugin's configuration, with `runtimeConfig` and `prevResult`.
    fn input(&self, plugin: &Plugin) -> Map<String, Value> {
        let mut input = plugin.config.clone();
        input.insert("name".to_owned(), json!(self.network.name()));
        input.insert("cniVersion".to_owned(), json!(self.version.as_str()));
        let has =
            |name: &String| plugin.config.get("capabilities").and_then(|c| c.get(name)) == Some(&json!(true));
        let told: Map<String, Value> = self
            .record
            .capabilities
            .iter()
            .filter(|(name, _)| has(name))
            .map(|(n, v)| (n.clone(), v.clone()))
            .collect();
        if !told.is_empty() {
            input.insert("runtimeConfig".to_owned(), Value::Object(told));
        }
        input
    }

    fn variables(&self, command: &str) -> Vec<(&'static str, String)> {
        let plugins: Vec<_> = self.settings.plugins.iter().map(|p| p.display().to_string()).collect();
        let mut all = vec![("CNI_COMMAND", command.to_owned()), ("CNI_PATH", plugins.join(":"))];
        if command != "ADD" && command != "DEL" {
            return all;
        }
        all.push(("CNI_CONTAINERID", self.record.container.clone()));
        all.push(("CNI_IFNAME", self.record.interface.clone()));
        all.push(("CNI_ARGS", Attachment::args_text(&self.record.args)));
        // A missing namespace took its interfaces along; a plugin that gets no namespace frees the rest.
        let namespace = &self.record.namespace;
        let is_there = command == "ADD" || crate::net::namespace::is_pinned(namespace);
        all.push(("CNI_NETNS", if is_there { namespace.display().to_string() } else { String::new() }));
        all
    }
}
