//! Layers are unpacked by a process that can reach nothing but the layer.
#![expect(clippy::unwrap_used, reason = "the parts that tests share fail as tests do")]

use std::fs;
use std::io::Read;
use std::path::Path;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use coracle::image::import::{ImportOptions, Source, import};
use coracle::image::progress::Silent;
use coracle::store::Store;

use super::image_fixture::{Image, Layout, Member, Pack, tar};

/// What was seen of the process that unpacks while the archive was still being read.
#[derive(Debug, Default, Clone)]
struct Seen {
    status: String,
    root: String,
    namespaces: Vec<(String, bool)>,
    descriptors: Vec<String>,
}

/// An archive that looks around once half of it was read, until it sees somebody at work.
struct Watching {
    bytes: Vec<u8>,
    at: usize,
    seen: Arc<Mutex<Vec<Seen>>>,
}

impl Read for Watching {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let count = buffer.len().min(self.bytes.len() - self.at).min(16 << 10);
        buffer[..count].copy_from_slice(&self.bytes[self.at..self.at + count]);
        self.at += count;
        let until = Instant::now() + Duration::from_secs(20);
        while self.at > self.bytes.len() / 2 && self.seen.lock().unwrap().is_empty() && Instant::now() < until
        {
            self.seen.lock().unwrap().extend(children().iter().filter_map(|pid| look(pid)));
            std::thread::sleep(Duration::from_millis(2));
        }
        Ok(count)
    }
}

/// The children of this thread, which are its own alone: other tests have threads of their own.
fn children() -> Vec<String> {
    let list = fs::read_to_string("/proc/thread-self/children").unwrap();
    list.split_whitespace().map(str::to_owned).collect()
}

fn look(pid: &str) -> Option<Seen> {
    let at = |name: &str| Path::new("/proc").join(pid).join(name);
    let status = fs::read_to_string(at("status")).ok()?;
    // On its way in.
    if !status.lines().any(|line| line == "Seccomp:\t2") {
        return None;
    }
    let namespaces = ["net", "mnt", "ipc"].map(|name| {
        let own = fs::read_link(Path::new("/proc/self/ns").join(name)).ok();
        (name.to_owned(), fs::read_link(at("ns").join(name)).ok() != own)
    });
    let names = fs::read_dir(at("root")).ok()?.map(|entry| entry.unwrap().file_name().into_string().unwrap());
    let mut names: Vec<String> = names.collect();
    names.sort();
    let links = fs::read_dir(at("fd")).ok()?.filter_map(|fd| fs::read_link(fd.unwrap().path()).ok());
    let descriptors = links.map(|link| link.to_str().unwrap().to_owned()).collect();
    Some(Seen { status, root: names.join(" "), namespaces: namespaces.into(), descriptors })
}

#[test]
fn the_process_that_unpacks_has_no_network_no_host_and_few_capabilities() {
    needs!(root);
    let noise: Vec<u8> =
        (0..3u64 << 20).map(|n| (n.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 56) as u8).collect();
    let layer = tar(&[Member::File("small", b"x"), Member::File("noise", &noise)]);
    let layout = Layout::of(Image { layers: vec![layer], pack: Pack::Gzip, platform: "", name: Some("x:1") });
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&dir.path().join("store")).unwrap();
    let seen = Arc::new(Mutex::new(Vec::new()));
    let archive = Watching { bytes: layout.tar(true), at: 0, seen: Arc::clone(&seen) };
    import(&store, Source::stream(archive, None), &ImportOptions::default(), &Silent).unwrap();
    let seen = seen.lock().unwrap().clone();
    assert!(!seen.is_empty(), "nobody was seen at work");
    for Seen { status, root, namespaces, descriptors } in seen {
        let field = |name: &str| {
            status
                .lines()
                .find_map(|line| line.strip_prefix(name))
                .map(|value| value.trim().to_owned())
                .unwrap()
        };
        assert_eq!(field("NoNewPrivs:"), "1");
        assert!(root.split(' ').all(|name| ["noise", "small", ""].contains(&name)), "its root holds {root}");
        assert!(namespaces.iter().all(|(_, is_own)| *is_own), "{namespaces:?}");
        let capabilities = u64::from_str_radix(&field("CapEff:"), 16).unwrap();
        // chown, dac_override, dac_read_search, fowner, fsetid, sys_admin, mknod, setfcap: see capabilities(7).
        assert_eq!(capabilities & !0x8820_001f, 0, "{capabilities:x}");
        // Those of the layer are shown from the root that the process has.
        let is_fine = |link: &String| {
            link.starts_with("pipe:")
                || link == "/dev/null"
                || link.ends_with("/files.idx")
                || link.len() <= "/small".len()
        };
        assert!(descriptors.iter().all(is_fine) && descriptors.len() <= 12, "{descriptors:?}");
    }
    assert!(children().is_empty(), "it is reaped");
}
