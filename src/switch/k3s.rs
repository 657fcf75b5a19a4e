//! K3s: its settings, and the files that make it use Coracle.
//!
//! Facts: K3s reads /etc/rancher/k3s/config.yaml, then config.yaml.d/*.yaml beside it in the order of their names; a later value
//! replaces an earlier one, and flags replace both. With `container-runtime-endpoint` it starts no containerd, and reads
//! neither registries.yaml nor the air-gap directory: Coracle does.

use std::path::{Path, PathBuf};

use super::file::{Change, read};
use super::{Node, SOCKET_PREFIX};
use crate::check::{Row, Tree};
use crate::error::{Error, Kind, Result};
use crate::serve::config::Config;

const CONFIG: &str = "/etc/rancher/k3s/config.yaml";
const DROP_INS: &str = "/etc/rancher/k3s/config.yaml.d";
const OWN: &str = "/etc/rancher/k3s/config.yaml.d/90-coracle.yaml";
const CORACLE: &str = "/etc/coracle/config.d/90-k3s.toml";
const DATA: &str = "/var/lib/rancher/k3s";
const REGISTRIES: &str = "/etc/rancher/k3s/registries.yaml";
const ENDPOINT: &str = "container-runtime-endpoint";
/// The services that K3s's installer makes.
const SERVICES: [&str; 2] = ["k3s", "k3s-agent"];
/// Settings that K3s passes to its own containerd only.
const WITHOUT_EFFECT: [&str; 4] =
    ["snapshotter", "pause-image", "default-runtime", "disable-default-registry-endpoint"];
/// Settings with which a switch is refused, and why.
const REFUSED: [(&str, &str); 4] = [
    ("docker", "K3s would use Docker"),
    ("embedded-registry", "K3s's embedded registry needs its containerd, so K3s would not start"),
    ("rootless", "Coracle runs pods as root only"),
    ("image-service-endpoint", "images would be pulled by another service"),
];

/// A setting, and the file that has it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Setting {
    key: String,
    value: String,
    file: PathBuf,
}

/// K3s's settings, the decisive ones last.
#[derive(Debug, Default)]
pub(super) struct Settings(Vec<Setting>);

impl Settings {
    /// Reads the settings but for Coracle's own.
    ///
    /// # Errors
    /// `Invalid` for a file that is not YAML.
    pub(super) fn read(tree: &Tree) -> Result<Self> {
        let mut all = Vec::new();
        let drop_ins = tree.names(DROP_INS).into_iter().map(|name| Path::new(DROP_INS).join(name));
        let is_yaml =
            |path: &PathBuf| path.extension().is_some_and(|ending| ending == "yaml" || ending == "yml");
        let files = std::iter::once(PathBuf::from(CONFIG)).chain(drop_ins.filter(is_yaml));
        for file in files.filter(|file| file != Path::new(OWN)) {
            if let Some(text) = read(tree, &file)? {
                all.extend(of_yaml(&file, &text)?);
            }
        }
        for file in service_files(tree) {
            let text = read(tree, &file)?.unwrap_or_default();
            all.extend(of_words(&file, &text));
        }
        Ok(Self(all))
    }

    fn find(&self, key: &str) -> Option<&Setting> {
        self.0.iter().rev().find(|setting| setting.key == key)
    }

    fn data(&self) -> PathBuf {
        self.find("data-dir")
            .filter(|setting| is_path(&setting.value))
            .map_or(DATA, |setting| &setting.value)
            .into()
    }

    /// containerd's root.
    pub(super) fn containerd(&self) -> PathBuf {
        self.data().join("agent/containerd")
    }

    /// The settings that name another endpoint than ours.
    fn others<'a>(&'a self, own: &'a str) -> impl Iterator<Item = &'a Setting> {
        self.0
            .iter()
            .filter(move |setting| setting.key == ENDPOINT && endpoint(&setting.value) != endpoint(own))
    }

    /// Why K3s cannot be switched, if it cannot.
    pub(super) fn refusal(&self, own: &str) -> Option<Error> {
        let refused = REFUSED.iter().find_map(|(key, why)| {
            let setting = self.find(key)?;
            (!["", "false"].contains(&setting.value.as_str())).then_some((setting, (*why).to_owned()))
        });
        let other = || {
            let setting = self.others(own).next()?;
            Some((setting, format!("K3s uses the runtime at {}", setting.value)))
        };
        let config = || {
            let setting = self.find("config").filter(|setting| setting.value != CONFIG)?;
            Some((setting, format!("K3s reads {} instead of {CONFIG}", setting.value)))
        };
        let path = || {
            let settings = ["data-dir", "private-registry"].into_iter().filter_map(|key| self.find(key));
            let setting = settings.into_iter().find(|setting| !is_path(&setting.value))?;
            Some((setting, format!("{:?} is not an absolute path", setting.value)))
        };
        let (setting, why) = refused.or_else(other).or_else(config).or_else(path)?;
        let doing = format!("{} sets {}: {why}", setting.file.display(), setting.key);
        Some(Error::new(Kind::WrongState, doing).hint("remove the setting, and try again"))
    }

    /// Whether the user has set our endpoint without `enable`.
    fn is_set_by_hand(&self, own: &str) -> bool {
        self.find(ENDPOINT).is_some_and(|setting| endpoint(&setting.value) == endpoint(own))
    }
}

/// Whether Coracle's configuration can have this path.
fn is_path(value: &str) -> bool {
    value.starts_with('/') && !value.contains(char::is_control)
}

/// K3s puts `unix://` before a path.
fn endpoint(value: &str) -> &str {
    value.strip_prefix(SOCKET_PREFIX).unwrap_or(value)
}

fn of_yaml(file: &Path, text: &str) -> Result<Vec<Setting>> {
    let yaml =
        crate::yaml::load_as_text(text).map_err(|error| error.doing(format!("read {}", file.display())))?;
    let Some(map) = yaml.as_hash() else {
        return match yaml.is_null() {
            true => Ok(Vec::new()),
            false => Err(Error::invalid(format!("{} is not a map of settings", file.display()))),
        };
    };
    let pairs = map.iter().filter_map(|(key, value)| Some((key.as_str()?, value.as_str().unwrap_or("?"))));
    Ok(pairs
        .map(|(key, value)| Setting { key: key.to_owned(), value: value.to_owned(), file: file.to_owned() })
        .collect())
}

/// The files that may have flags or variables of K3s's: those of systemd, and OpenRC's.
fn service_files(tree: &Tree) -> Vec<PathBuf> {
    let mut files = Vec::new();
    for service in SERVICES {
        for directory in ["/usr/lib/systemd/system", "/etc/systemd/system"] {
            let unit = format!("{directory}/{service}.service");
            let drop_ins = tree.names(format!("{unit}.d"));
            files.extend([unit.clone().into(), format!("{unit}.env").into()]);
            files.extend(drop_ins.into_iter().map(|name| Path::new(&format!("{unit}.d")).join(name)));
        }
        files.extend([
            format!("/etc/init.d/{service}").into(),
            format!("/etc/rancher/k3s/{service}.env").into(),
        ]);
    }
    files
}

/// Flags of a command line, and variables that stand for them.
fn of_words(file: &Path, text: &str) -> Vec<Setting> {
    const NAMES: [(&str, &str); 4] =
        [("K3S_DATA_DIR", "data-dir"), ("K3S_CONFIG_FILE", "config"), ("-d", "data-dir"), ("-c", "config")];
    let is_known = |key: &str| {
        [ENDPOINT, "data-dir", "config", "private-registry"].contains(&key)
            || WITHOUT_EFFECT.contains(&key)
            || REFUSED.iter().any(|(name, _)| *name == key)
    };
    let lines = text.lines().filter(|line| !line.trim_start().starts_with('#'));
    let words: Vec<String> = lines
        .flat_map(str::split_whitespace)
        .map(|word| word.replace(['\'', '"', '\\'], "").replace("command_args=", ""))
        .filter(|word| !word.is_empty())
        .collect();
    // Commands before K3s's, such as `ExecStartPre=/bin/sh -c`, have flags of their own.
    let begin = words.iter().position(|word| word == "server" || word == "agent").unwrap_or(words.len());
    let mut found = Vec::new();
    for (index, word) in words.iter().enumerate() {
        if word.starts_with('-') && index < begin {
            continue;
        }
        let (name, value) = match word.split_once('=') {
            Some((name, value)) => (name, Some(value.to_owned())),
            None => (word.as_str(), None),
        };
        let key = match (NAMES.iter().find(|(short, _)| *short == name), name.strip_prefix("--")) {
            (Some((_, key)), _) => key,
            (None, Some(key)) if is_known(key) => key,
            _ => continue,
        };
        let next = words.get(index + 1).filter(|next| !next.starts_with('-')).cloned();
        let value = value.or(next).unwrap_or_else(|| "true".to_owned());
        found.push(Setting { key: key.to_owned(), value, file: file.to_owned() });
    }
    found
}

/// Whether K3s, or something of it, is on the machine.
pub(super) fn is_installed(tree: &Tree) -> bool {
    tree.has("/usr/local/bin/k3s") || tree.has(DATA) || service_files(tree).iter().any(|file| tree.has(file))
}

/// The services that exist; the usual one where none does yet.
pub(super) fn services(tree: &Tree) -> Vec<&'static str> {
    let exists = |service: &&str| {
        ["/etc/systemd/system", "/usr/lib/systemd/system"]
            .iter()
            .any(|directory| tree.has(format!("{directory}/{service}.service")))
    };
    let found: Vec<_> = SERVICES.into_iter().filter(exists).collect();
    if found.is_empty() { vec![SERVICES[0]] } else { found }
}

/// What `enable` changes.
pub(super) fn enable(node: &Node, settings: &Settings) -> Result<Vec<Change>> {
    let own = node.endpoint();
    if let Some(refusal) = settings.refusal(&own) {
        return Err(refusal);
    }
    let tree = &node.tree;
    let mut changes = Vec::new();
    if !settings.is_set_by_hand(&own) {
        changes.extend(Change::write(tree, OWN.as_ref(), "k3s", &format!("{ENDPOINT}: {own}\n"))?);
    }
    let order = "[Unit]\nWants=coracle.service\nAfter=coracle.service\n";
    for service in services(tree) {
        changes.extend(Change::write(tree, &order_file(service), "k3s", order)?);
    }
    if let Some(text) = configuration(node, settings)? {
        changes.extend(Change::write(tree, CORACLE.as_ref(), "k3s", &text)?);
    }
    Ok(changes)
}

fn order_file(service: &str) -> PathBuf {
    format!("/etc/systemd/system/{service}.service.d/90-coracle.conf").into()
}

/// Where Coracle has to look, if K3s has its files elsewhere than usual.
fn configuration(node: &Node, settings: &Settings) -> Result<Option<String>> {
    let data = settings.data();
    let below = |path: &str| data.join(path);
    let lists = [
        ("images", "import_dirs", &node.config.images.import_dirs, vec![below("agent/images")]),
        ("cni", "conf_dirs", &node.config.cni.conf_dirs, vec![below("agent/etc/cni/net.d")]),
        ("cni", "bin_dirs", &node.config.cni.bin_dirs, vec![below("data/cni"), below("data/current/bin")]),
    ];
    let mut table = toml::Table::new();
    let mut set = |section: &str, key: &str, value: toml::Value| {
        let section = table.entry(section).or_insert_with(|| toml::Table::new().into());
        section
            .as_table_mut()
            .into_iter()
            .for_each(|table| drop(table.insert(key.to_owned(), value.clone())));
    };
    if data != Path::new(DATA) {
        for (section, key, known, wanted) in lists {
            let added = wanted.into_iter().filter(|path| !known.contains(path));
            let all: Vec<toml::Value> =
                known.iter().cloned().chain(added).map(|path| path.display().to_string().into()).collect();
            set(section, key, all.into());
        }
    }
    if let Some(file) = settings.find("private-registry").filter(|setting| setting.value != REGISTRIES) {
        set("registry", "k3s_registries", file.value.clone().into());
    }
    if table.is_empty() {
        return Ok(None);
    }
    let doing = "write a configuration for Coracle";
    let text = toml::to_string(&table).map_err(|error| Error::new(Kind::Bug, doing).because(error))?;
    // Coracle would not start with a configuration that it refuses.
    toml::from_str::<Config>(&text).map_err(|error| Error::new(Kind::Bug, doing).because(error))?;
    Ok(Some(text))
}

/// What `disable` changes.
pub(super) fn disable(tree: &Tree) -> Result<Vec<Change>> {
    let files = [OWN.into(), CORACLE.into()].into_iter().chain(SERVICES.map(order_file));
    files.filter_map(|file: PathBuf| Change::remove(tree, &file).transpose()).collect()
}

/// Whether K3s uses Coracle at its next start.
pub(super) fn is_enabled(node: &Node, settings: &Settings) -> bool {
    let own = node.endpoint();
    let by_file = read(&node.tree, OWN.as_ref()).ok().flatten().is_some_and(|text| text.contains(&own));
    settings.others(&own).next().is_none() && (by_file || settings.is_set_by_hand(&own))
}

/// Settings without effect, and an order of services that nobody takes care of.
pub(super) fn rows(tree: &Tree, settings: &Settings) -> Vec<Row> {
    let mut rows = Vec::new();
    if SERVICES.iter().any(|service| tree.has(format!("/etc/init.d/{service}"))) {
        rows.push(
            Row::warning("order", "OpenRC starts K3s, and `enable` knows systemd only")
                .advise("write a service for `coracle serve`, and rc_need=coracle into /etc/conf.d/k3s"),
        );
    }
    let ignored: Vec<&str> = WITHOUT_EFFECT.into_iter().filter(|key| settings.find(key).is_some()).collect();
    if !ignored.is_empty() {
        let finding = format!("{} is for K3s's containerd, and has no effect on Coracle", ignored.join(", "));
        rows.push(
            Row::warning("settings", finding)
                .advise("see the handlers and [registry] in Coracle's configuration"),
        );
    }
    rows
}

/// The commands that make K3s use the other runtime, once the files are changed.
pub(super) fn commands(tree: &Tree, is_enable: bool, own: &str) -> Vec<String> {
    let services = services(tree).join(" ");
    let mut commands = vec!["systemctl daemon-reload".to_owned(), format!("systemctl stop {services}")];
    match is_enable {
        // A Coracle that runs already reads its new configuration only when it starts.
        true => commands.extend(
            ["k3s-killall.sh", "systemctl enable coracle", "systemctl restart coracle"].map(str::to_owned),
        ),
        false => commands.extend([
            format!("k3s crictl --runtime-endpoint {own} rmp --all --force"),
            "systemctl restart coracle".to_owned(),
        ]),
    }
    commands.push(format!("systemctl start {services}"));
    commands
}
