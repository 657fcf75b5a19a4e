//! Bundles: a fixture's `config.json` copied into the sandbox, with a root made of the machine's static busybox.

use std::fs;
use std::os::unix::fs::symlink;
use std::path::{Path, PathBuf};

use serde_json::{Value, json};

/// The busybox programs that the tests' roots have.
const APPLETS: &[&str] = &[
    "sh", "cat", "ls", "sleep", "true", "false", "echo", "id", "env", "pwd", "hostname", "mount", "umount",
    "stat", "touch", "mkdir", "mknod", "rm", "chown", "chmod", "readlink", "ulimit", "kill", "ps", "grep",
    "head", "wc", "cut", "tr", "sed", "test", "[", "tty", "stty", "sync", "dd", "df", "date", "unshare",
    "setsid", "od", "printf", "seq",
];

/// A bundle of one test: may be changed at will.
pub(crate) struct Bundle {
    dir: PathBuf,
}

/// A path below `oci-fixtures/`.
pub(crate) fn fixture(path: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("oci-fixtures").join(path)
}

impl Bundle {
    /// Copies the fixture bundle at `from` to `to` and makes its root; what the fixture has in `rootfs/` stays there.
    pub(crate) fn copy(from: &Path, to: &Path) -> Self {
        assert!(from.is_dir(), "no fixture {}", from.display());
        copy_folder(from, to);
        let bundle = Self { dir: to.to_owned() };
        bundle.make_root();
        bundle
    }

    /// A bundle that is there already.
    pub(crate) fn at(dir: PathBuf) -> Self {
        Self { dir }
    }

    fn make_root(&self) {
        let root = self.root();
        for dir in ["bin", "dev", "etc", "proc", "sys", "tmp", "root"] {
            fs::create_dir_all(root.join(dir)).unwrap();
        }
        fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\nweb:x:1000:1000::/:/bin/sh\n")
            .unwrap();
        fs::write(root.join("etc/group"), "root:x:0:\nweb:x:1000:\n").unwrap();
        fs::copy("/bin/busybox", root.join("bin/busybox")).unwrap();
        for applet in APPLETS {
            symlink("busybox", root.join("bin").join(applet)).unwrap();
        }
    }

    /// The bundle's directory.
    pub(crate) fn path(&self) -> &Path {
        &self.dir
    }

    /// The root file system's directory.
    pub(crate) fn root(&self) -> PathBuf {
        self.dir.join("rootfs")
    }

    /// The configuration as it stands.
    pub(crate) fn config(&self) -> Value {
        serde_json::from_slice(&fs::read(self.dir.join("config.json")).unwrap()).unwrap()
    }

    /// Changes the configuration.
    pub(crate) fn edit(self, change: impl FnOnce(&mut Value)) -> Self {
        let mut config = self.config();
        change(&mut config);
        fs::write(self.dir.join("config.json"), serde_json::to_vec_pretty(&config).unwrap()).unwrap();
        self
    }

    /// Replaces the value at a JSON pointer; what is missing on the way is made.
    pub(crate) fn with(self, pointer: &str, value: Value) -> Self {
        self.edit(|config| *place(config, pointer) = value)
    }

    /// Appends to the list at a JSON pointer.
    pub(crate) fn with_pushed(self, pointer: &str, value: Value) -> Self {
        self.edit(|config| {
            let list = place(config, pointer);
            if list.is_null() {
                *list = json!([]);
            }
            list.as_array_mut().unwrap_or_else(|| panic!("{pointer} is no list")).push(value);
        })
    }

    /// Writes a file into the root file system.
    pub(crate) fn with_file(self, path: &str, content: impl AsRef<[u8]>) -> Self {
        fs::write(self.root().join(path), content).unwrap();
        self
    }

    /// Makes the payload a shell script.
    pub(crate) fn script(self, script: &str) -> Self {
        self.with("/process/args", json!(["/bin/sh", "-c", script]))
    }

    /// Makes the payload this command.
    pub(crate) fn args(self, args: &[&str]) -> Self {
        self.with("/process/args", json!(args))
    }

    /// Drops the namespace of this kind.
    pub(crate) fn without_namespace(self, kind: &str) -> Self {
        self.edit(|config| {
            let list = config["linux"]["namespaces"].as_array_mut().unwrap();
            list.retain(|ns| ns["type"] != kind);
        })
    }
}

/// The place a JSON pointer names, made of objects where there is nothing yet.
fn place<'a>(config: &'a mut Value, pointer: &str) -> &'a mut Value {
    pointer.split('/').skip(1).fold(config, |at, key| match at {
        Value::Array(list) => &mut list[key.parse::<usize>().unwrap()],
        other => &mut other[key],
    })
}

fn copy_folder(from: &Path, to: &Path) {
    fs::create_dir(to).unwrap();
    for entry in fs::read_dir(from).unwrap().map(Result::unwrap) {
        let target = to.join(entry.file_name());
        if entry.file_type().unwrap().is_dir() {
            copy_folder(&entry.path(), &target);
        } else {
            fs::copy(entry.path(), target).unwrap();
        }
    }
}
