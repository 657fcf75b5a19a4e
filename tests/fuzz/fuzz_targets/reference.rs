//! Any text as the name of an image: what is accepted names the same when it is read again, and cannot leave its place
//! when it becomes part of a path or a URL.
#![no_main]

use coracle::image::reference::Reference;
use libfuzzer_sys::fuzz_target;

fuzz_target!(|text: &str| {
    let Ok(reference) = Reference::parse(text) else { return };
    let full = reference.to_string();
    let again = Reference::parse(&full).expect("a normalised name is a name");
    assert_eq!(again.to_string(), full);
    assert_eq!(
        (again.registry(), again.path(), again.tag(), again.digest()),
        (reference.registry(), reference.path(), reference.tag(), reference.digest())
    );
    assert!(full.bytes().all(|byte| byte.is_ascii_graphic()), "{full:?}");
    for part in reference.path().split('/') {
        assert!(!part.is_empty() && !part.starts_with('.'), "{full:?}");
    }
    for part in [reference.registry(), reference.tag().unwrap_or_default()] {
        assert!(!part.contains(['/', '@', '?', '#', '%', '\\']), "{full:?}");
    }
});
