//! Any text as an image's /etc/passwd and /etc/group, asked for any user: an error, or ids and a home that can be passed on.
//! The three parts are separated by NUL.
#![no_main]

use coracle::linux::ids::Account;
use coracle::spec::request::{GroupsRequest, UserRequest};
use coracle::spec::user::{Databases, home_of, resolve};
use libfuzzer_sys::fuzz_target;

thread_local! {
    static ROOT: tempfile::TempDir = {
        let root = tempfile::tempdir().unwrap();
        std::fs::create_dir(root.path().join("etc")).unwrap();
        root
    };
}

fuzz_target!(|bytes: &[u8]| {
    let mut parts = bytes.splitn(3, |byte| *byte == 0);
    let user = String::from_utf8_lossy(parts.next().unwrap_or_default()).into_owned();
    ROOT.with(|root| {
        for name in ["etc/passwd", "etc/group"] {
            std::fs::write(root.path().join(name), parts.next().unwrap_or_default()).unwrap();
        }
        let databases = Databases::read(root.path()).unwrap();
        let _ = Account::parse("group", &user).and_then(|group| databases.group_id(group));
        let Ok(asked) = UserRequest::parse(&user) else { return };
        let Ok(found) = resolve(&asked, &GroupsRequest::default(), "", &databases) else { return };
        assert!(!found.home.clone().unwrap().contains(['\n', ':']), "{found:?}");
        assert!(!home_of(root.path(), found.uid).contains(['\n', ':']));
    });
});
