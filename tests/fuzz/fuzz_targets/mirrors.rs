//! Any text as a file of mirrors, and any name: refused, or it leads to places of HTTP and nothing else. The first byte
//! says which file it is: hosts.toml, registries.yaml or registries.conf. The second line is the image's name.
#![no_main]

use std::path::PathBuf;
use std::sync::OnceLock;

use coracle::image::reference::Reference;
use coracle::image::registry::{RegistryOptions, places};
use libfuzzer_sys::fuzz_target;

static PLACE: OnceLock<PathBuf> = OnceLock::new();

fn place() -> &'static PathBuf {
    PLACE.get_or_init(|| {
        let dir = std::env::temp_dir().join(format!("coracle-fuzz-mirrors-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&dir);
        std::fs::create_dir_all(dir.join("certs.d/_default")).unwrap();
        dir
    })
}

fuzz_target!(|text: &str| {
    let Some((which, rest)) = text.split_once('\n') else { return };
    let (name, file) = rest.split_once('\n').unwrap_or(("ghcr.io/ns/app:1", rest));
    let Ok(reference) = Reference::parse(name) else { return };
    let dir = place();
    let files = ["certs.d/_default/hosts.toml", "registries.yaml", "registries.conf"];
    let chosen = usize::from(which.bytes().next().unwrap_or(0)) % files.len();
    for (number, path) in files.iter().enumerate() {
        std::fs::write(dir.join(path), if number == chosen { file } else { "" }).unwrap();
    }
    if chosen != 0 {
        // An empty one would speak for every registry.
        std::fs::remove_file(dir.join(files[0])).unwrap();
    }
    let options = RegistryOptions {
        hosts_dirs: vec![dir.join("certs.d")],
        k3s_registries: dir.join(files[1]),
        registries_conf: dir.join(files[2]),
        ..RegistryOptions::default()
    };
    let Ok(places) = places(&options, &reference) else { return };
    assert!(!places.is_empty());
    for place in places {
        let rest = place.strip_prefix("https://").or_else(|| place.strip_prefix("http://"));
        assert!(rest.is_some_and(|rest| !rest.is_empty() && !rest.starts_with('/')), "{place:?}");
        assert!(place.bytes().all(|byte| byte.is_ascii_graphic()), "{place:?}");
    }
});
