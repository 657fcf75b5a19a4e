//! Scripted plugins, so that every branch of a chain can be tested. No root needed.

mod chains;
mod networks;

use std::fs;
use std::os::unix::fs::symlink;
use std::path::PathBuf;
use std::time::Duration;

use serde_json::Value;
use tempfile::TempDir;

use super::*;

/// The default result of ADD in these tests.
const RESULT: &str = r#"{
    "cniVersion": "1.0.0",
    "interfaces": [{"name": "veth1"}, {"name": "eth0", "sandbox": "/run/netns/x"}],
    "ips": [
        {"address": "10.1.0.5/16", "gateway": "10.1.0.1", "interface": 1},
        {"address": "fd00::5/64", "interface": 1},
        {"address": "10.1.0.1/16", "interface": 0}
    ]
}"#;

struct Fake {
    directory: TempDir,
}

impl Fake {
    /// A network of these plugins, each of which succeeds at ADD.
    fn network(plugins: &[&str]) -> Self {
        let fake = Self { directory: tempfile::tempdir().unwrap() };
        for directory in ["bin", "conf"] {
            fs::create_dir(fake.directory.path().join(directory)).unwrap();
        }
        for plugin in plugins {
            // A link instead of a copy: a freshly written file cannot be executed while another thread forks (ETXTBSY).
            let script = concat!(env!("CARGO_MANIFEST_DIR"), "/src/net/cni/tests/plugin.sh");
            symlink(script, fake.bin(plugin)).unwrap();
            fake.on(plugin, "ADD", &format!("cat <<'END'\n{RESULT}\nEND"));
        }
        let list: Vec<_> = plugins.iter().map(|p| format!(r#"{{"type": "{p}"}}"#)).collect();
        fake.configure(
            "10-test.conflist",
            &format!(r#"{{"cniVersion": "1.0.0", "name": "test", "plugins": [{}]}}"#, list.join(",")),
        );
        fake
    }

    fn bin(&self, name: &str) -> PathBuf {
        self.directory.path().join("bin").join(name)
    }

    fn configure(&self, file: &str, text: &str) {
        fs::write(self.directory.path().join("conf").join(file), text).unwrap();
    }

    /// Sets the shell script that a plugin runs for a command.
    fn on(&self, plugin: &str, command: &str, script: &str) {
        fs::write(self.bin(&format!("{plugin}.{command}")), script).unwrap();
    }

    fn settings(&self) -> Settings {
        Settings {
            configurations: vec![self.directory.path().join("none"), self.directory.path().join("conf")],
            plugins: vec![self.directory.path().join("none"), self.directory.path().join("bin")],
            records: self.directory.path().join("records"),
            patience: Duration::from_secs(30),
        }
    }

    fn cni(&self) -> Cni {
        Cni::new(self.settings())
    }

    /// The calls since the last time, in order.
    fn calls(&self) -> Vec<String> {
        let text = fs::read_to_string(self.bin("calls")).unwrap_or_default();
        let _ = fs::remove_file(self.bin("calls"));
        text.lines().map(str::to_owned).collect()
    }

    fn input(&self, plugin: &str, command: &str) -> Value {
        serde_json::from_slice(&fs::read(self.bin(&format!("{plugin}.{command}.input"))).unwrap()).unwrap()
    }

    fn variables(&self, plugin: &str, command: &str) -> String {
        fs::read_to_string(self.bin(&format!("{plugin}.{command}.variables"))).unwrap()
    }

    fn records(&self) -> usize {
        fs::read_dir(self.directory.path().join("records")).map_or(0, Iterator::count)
    }
}

fn attachment(container: &str) -> Attachment {
    Attachment {
        container: container.into(),
        namespace: "/proc/self/ns/net".into(),
        interface: "eth0".into(),
        ..Attachment::default()
    }
}
