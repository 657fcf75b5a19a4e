//! What a layer means (image-spec layer.md), member by member and in every order.

#![expect(clippy::unwrap_used, clippy::print_stdout, reason = "a test says what went wrong by failing")]

use std::collections::{BTreeMap, BTreeSet};
use std::fs::File;
use std::io::Write;
use std::os::fd::AsFd;
use std::path::Path;

use coracle::error::{Kind, Result};
use coracle::image::digest::Digest;
use coracle::image::layer::{Applied, Limits, apply, apply_and_prove, lower_link};
use proptest::prelude::*;

use crate::layer_tar::{Member, described, snapshot, tar};

const TIME: &str = "@1700000000.000000000";

/// An applied layer, or why it could not be.
struct Layer {
    dir: tempfile::TempDir,
    result: Result<Applied>,
}

impl Layer {
    fn from_stream(stream: &[u8]) -> Self {
        Self::within(stream, &Limits::default())
    }

    fn within(stream: &[u8], limits: &Limits) -> Self {
        let dir = tempfile::tempdir().unwrap();
        let record = tempfile::NamedTempFile::new().unwrap();
        let result = apply_and_prove(stream, dir.path(), record.path(), limits);
        Self { dir, result }
    }

    fn of(members: &[Member]) -> Self {
        Self::from_stream(&tar(members))
    }

    fn applied(&self) -> &Applied {
        self.result.as_ref().unwrap()
    }

    fn error(&self) -> String {
        self.result.as_ref().unwrap_err().chain()
    }

    /// What stands at `path`, without the time where it is the usual one.
    fn at(&self, path: &str) -> String {
        assert!(self.result.is_ok(), "{}", self.error());
        described(&self.dir.path().join(path)).replace(&format!(" {TIME}"), "")
    }
}

fn unless_root() -> bool {
    let skip = !rustix::process::geteuid().is_root();
    if skip {
        println!("SKIP: layers need root, for owners and devices");
    }
    skip
}

macro_rules! layer_test {
    ($($(#[$meta:meta])* fn $name:ident() $body:block)*) => {
        $($(#[$meta])* #[test] fn $name() { if unless_root() { return; } $body })*
    };
}

fn whiteout(path: &str) -> Member {
    Member::file(path, "")
}

layer_test! {
    fn a_whiteout_and_a_file_of_its_name_give_the_file_in_either_order() {
        for members in [
            [Member::file("foo", "x"), whiteout(".wh.foo")],
            [whiteout(".wh.foo"), Member::file("foo", "x")],
        ] {
            assert_eq!(Layer::of(&members).at("foo"), "file \"x\" 0644 0:0");
        }
    }

    /// stacker#627, image-spec#144: a plain directory would let the lower one's content come back.
    fn a_whiteout_and_a_directory_of_its_name_give_an_opaque_directory_in_either_order() {
        for members in [
            [Member::dir("foo"), whiteout(".wh.foo"), Member::file("foo/new", "x")],
            [whiteout(".wh.foo"), Member::dir("foo"), Member::file("foo/new", "x")],
            [whiteout(".wh.foo"), Member::file("foo/new", "x"), Member::dir("foo")],
        ] {
            let layer = Layer::of(&members);
            assert_eq!(layer.at("foo"), "dir 0755 0:0 [trusted.overlay.opaque=y]");
            assert!(layer.at("foo/new").starts_with("file"));
        }
    }

    fn a_whiteout_below_a_whiteout_or_a_file_is_ignored() {
        let layer = Layer::of(&[whiteout(".wh.foo"), whiteout("foo/.wh.bar"), whiteout("foo/a/.wh.b")]);
        assert_eq!((layer.at("foo"), layer.at("foo/bar")), ("whiteout".into(), "absent".into()));
        let layer = Layer::of(&[whiteout("foo/.wh.bar"), whiteout("foo/a/.wh.b"), whiteout(".wh.foo")]);
        assert_eq!(layer.at("foo"), "whiteout");
        let layer = Layer::of(&[Member::file("foo", "x"), whiteout("foo/.wh.bar")]);
        assert_eq!(layer.at("foo"), "file \"x\" 0644 0:0");
    }

    fn an_opaque_marker_may_come_before_between_or_after() {
        let opaque = whiteout("d/.wh..wh..opq");
        let rest = [Member::dir("d").mode("1777"), Member::file("d/f", "x"), whiteout("d/.wh.gone")];
        for at in 0..=rest.len() {
            let mut members = rest.to_vec();
            members.insert(at, opaque.clone());
            let layer = Layer::of(&members);
            assert_eq!(layer.at("d"), "dir 1777 0:0 [trusted.overlay.opaque=y]");
            assert_eq!(layer.at("d/gone"), "absent", "overlayfs would list it");
            assert!(layer.at("d/f").starts_with("file"));
        }
    }

    fn a_chain_of_opaque_markers_takes_linear_time() {
        const LEVELS: usize = 400;
        let chain = |levels: usize| vec!["d"; levels].join("/");
        let mut members: Vec<Member> =
            (0..2000).map(|number| Member::dir(&format!("{}/{number}", chain(LEVELS)))).collect();
        // The deepest first: each of them covers all that the ones before it have covered already.
        members.extend((1..=LEVELS).rev().map(|levels| whiteout(&format!("{}/.wh..wh..opq", chain(levels)))));
        let stream = tar(&members);
        let begin = std::time::Instant::now();
        let layer = Layer::from_stream(&stream);
        assert!(begin.elapsed().as_secs() < 10, "{:?}", begin.elapsed());
        assert_eq!(layer.at("d"), "dir 0755 0:0 @0.000000000 [trusted.overlay.opaque=y]");
        assert_eq!(layer.at("d/d"), "dir 0755 0:0 @0.000000000");
    }

    fn deep_directories_that_nobody_described_take_linear_time() {
        let chain = vec!["d"; 1500].join("/");
        let members: Vec<Member> =
            (0..3000).map(|number| Member::file(&format!("{chain}/{number}/f"), "")).collect();
        let stream = tar(&members);
        let begin = std::time::Instant::now();
        let layer = Layer::from_stream(&stream);
        assert!(begin.elapsed().as_secs() < 15, "{:?}", begin.elapsed());
        assert_eq!(layer.applied().entries, 3000);
    }

    fn short_names_that_lead_through_long_targets_are_refused() {
        let target = |next: &str| format!("{}../{next}", "./".repeat(1000));
        let mut members = vec![Member::dir("d")];
        members.extend((0..3).map(|n| Member::linked("symlink", &format!("d/{n}"), &target(&format!("d/{}", n + 1)))));
        members.push(Member::dir("d/3"));
        let inside = |n: u32| [members.clone(), vec![Member::file(&format!("d/{n}/f"), "x")]].concat();
        assert!(Layer::of(&inside(2)).at("d/3/f").starts_with("file"));
        assert!(Layer::of(&inside(1)).at("d/3/f").starts_with("file"));
        assert!(Layer::of(&inside(0)).error().contains("too many symlinks"));
    }

    fn an_opaque_root_is_reported_because_overlayfs_ignores_the_mark() {
        assert!(Layer::of(&[whiteout(".wh..wh..opq")]).applied().hides_all_lower);
        assert!(!Layer::of(&[whiteout("d/.wh..wh..opq")]).applied().hides_all_lower);
    }

    fn directories_nobody_described_are_made_and_reported() {
        let layer = Layer::of(&[Member::file("a/b/c", "x")]);
        assert_eq!(layer.at("a/b"), "dir 0755 0:0 @0.000000000");
        assert!(layer.applied().implicit_dirs);
        let layer = Layer::of(&[Member::file("a/b", "x"), Member::dir("a").mode("1777")]);
        assert_eq!(layer.at("a"), "dir 1777 0:0");
        assert!(!layer.applied().implicit_dirs);
    }

    fn the_last_of_two_members_of_one_name_wins() {
        let layer = Layer::of(&[Member::dir("a"), Member::file("a/b/c/d", "x"), Member::file("a", "y")]);
        assert_eq!(layer.at("a"), "file \"y\" 0644 0:0");
        let layer = Layer::of(&[Member::linked("symlink", "a", "b"), Member::dir("a"), Member::file("a/x", "y")]);
        assert_eq!(layer.at("a"), "dir 0755 0:0 [trusted.overlay.opaque=y]");
        assert_eq!(layer.at("b"), "absent");
        let layer = Layer::of(&[Member::dir("a").mode("700"), Member::file("a/x", "y"), Member::dir("a").mode("711")]);
        assert_eq!((layer.at("a"), layer.at("a/x")), ("dir 0711 0:0".into(), "file \"y\" 0644 0:0".into()));
    }

    fn a_hard_link_to_a_symlink_links_the_symlink() {
        let link = Member::linked("symlink", "a", "nowhere");
        let layer = Layer::of(&[link, Member { uid: 7, ..Member::linked("link", "/b", "/a").mode("4755") }]);
        let inode = |name: &str| std::os::unix::fs::MetadataExt::ino(&layer.dir.path().join(name).symlink_metadata().unwrap());
        assert_eq!(layer.at("b"), "symlink to nowhere 0777 0:0");
        assert_eq!(inode("a"), inode("b"));
    }

    fn a_hard_link_forward_or_into_lower_layers_is_told_apart_from_other_errors() {
        for members in [
            vec![Member::linked("link", "b", "a"), Member::file("a", "")],
            vec![Member::linked("link", "b", "no/such/a")],
            vec![whiteout(".wh.a"), Member::linked("link", "b", "a")],
        ] {
            let layer = Layer::of(&members);
            let error = layer.result.as_ref().unwrap_err();
            assert_eq!(lower_link(error).unwrap().name, b"b", "{}", layer.error());
            assert!(error.first_hint().unwrap().contains("lower layer"));
        }
        let layer = Layer::of(&[Member::dir("d"), Member::linked("link", "b", "d")]);
        assert!(lower_link(layer.result.as_ref().unwrap_err()).is_none(), "{}", layer.error());
    }

    fn a_hard_link_ignores_its_size_and_one_to_itself_changes_nothing() {
        let same = Member { size: Some(3), ..Member::linked("link", "a", "./a") };
        let more = Member { size: Some(3), ..Member::linked("link", "b", "a") };
        let layer = Layer::of(&[Member::file("a", "xyz"), same, more, Member::file("c", "end")]);
        assert_eq!((layer.at("a"), layer.at("b")), ("file \"xyz\" 0644 0:0".into(), "file \"xyz\" 0644 0:0".into()));
        assert_eq!(layer.at("c"), "file \"end\" 0644 0:0");
    }

    /// chown(2) clears setuid bits and capabilities, so the order shows.
    fn setuid_bits_owners_capabilities_and_times_all_survive() {
        let capability = "\u{1}\0\0\u{2}\0\u{4}\0\0\0\0\0\0\0\0\0\0\0\0\0\0";
        let file = Member { uid: 1000, gid: 1001, ..Member::file("ping", "x").mode("6755") };
        let file = file.pax("SCHILY.xattr.security.capability", capability).pax("mtime", "-1.5");
        let file = file.pax("SCHILY.xattr.user.note", "a=b\0c");
        let layer = Layer::of(&[file]);
        let is = layer.at("ping");
        assert!(is.starts_with("file \"x\" 6755 1000:1001 @-2.500000000 [security.capability="), "{is}");
        assert!(is.ends_with("[user.note=a=b\\x00c]"), "{is}");
    }

    fn directories_get_modes_and_times_after_their_content() {
        let dir = Member { uid: 5, gid: 6, ..Member::dir("d").mode("2555") };
        let layer = Layer::of(&[dir, Member::dir("d/e").mode("0"), Member::file("d/e/f", "x"), Member::file("d/g", "")]);
        assert_eq!(layer.at("d"), "dir 2555 5:6");
        assert_eq!(layer.at("d/e"), "dir 0000 0:0");
        assert_eq!(layer.at("d/g"), "file \"\" 0644 0:0", "no group inherited from a setgid directory");
    }

    fn the_root_member_sets_the_attributes_of_the_root() {
        let layer = Layer::of(&[Member { uid: 9, ..Member::dir("./").mode("711") }, Member::file("./a", "x")]);
        assert_eq!(layer.at(""), "dir 0711 9:0");
        assert_eq!(Layer::of(&[]).at(""), "dir 0755 0:0 @0.000000000");
    }

    fn a_default_acl_is_not_inherited_by_what_the_layer_puts_below() {
        // Version 2; user::rwx, group::rwx, other::rwx.
        let acl = "\u{2}\0\0\0\u{1}\0\u{7}\0\x7f\x7f\x7f\x7f\u{4}\0\u{7}\0\x7f\x7f\x7f\x7f\u{20}\0\u{7}\0\x7f\x7f\x7f\x7f";
        let dir = Member::dir("d").pax("SCHILY.xattr.system.posix_acl_default", acl);
        let layer = Layer::of(&[dir, Member::dir("d/e"), Member::file("d/f", "")]);
        assert!(layer.at("d").contains("posix_acl_default"), "{}", layer.at("d"));
        assert_eq!((layer.at("d/e"), layer.at("d/f")), ("dir 0755 0:0".into(), "file \"\" 0644 0:0".into()));
    }

    fn devices_and_pipes_are_made() {
        let null = Member { device: (1, 3), ..Member::new("char", "null").mode("666") };
        let disk = Member { device: (259, 70_000), ..Member::new("block", "disk").mode("660") };
        let layer = Layer::of(&[null, disk, Member::new("fifo", "pipe").mode("622")]);
        assert_eq!(layer.at("null"), "device 103 0666 0:0");
        assert_eq!(layer.at("disk"), format!("device {:x} 0660 0:0", rustix::fs::makedev(259, 70_000)));
        assert_eq!(layer.at("pipe"), "fifo 0622 0:0");
    }

    fn parents_that_are_symlinks_lead_to_places_in_the_layer() {
        let layer = Layer::of(&[
            Member::linked("symlink", "lib", "/usr/lib"),
            Member::dir("usr/lib").mode("750"),
            Member::file("lib/a", "x"),
            Member::dir("lib/sub").mode("711"),
            whiteout("lib/.wh.b"),
            Member::linked("link", "c", "lib/a"),
        ]);
        assert_eq!(layer.at("usr/lib/a"), "file \"x\" 0644 0:0");
        assert_eq!(layer.at("usr/lib/sub"), "dir 0711 0:0");
        assert_eq!(layer.at("usr/lib/b"), "whiteout");
        assert_eq!(layer.at("usr/lib"), "dir 0750 0:0");
        assert!(layer.at("c").starts_with("file"));
    }

    fn paths_longer_than_a_system_call_takes_work() {
        let part = "p".repeat(250);
        let deep = vec![part; 40].join("/");
        let members = [
            Member::dir(&deep).mode("700"),
            Member::file(&format!("{deep}/f"), "x"),
            Member::linked("link", "top", &format!("{deep}/f")),
            whiteout(&format!("{deep}/.wh.w")),
        ];
        let layer = Layer::of(&members);
        assert_eq!(layer.at("top"), "file \"x\" 0644 0:0");
        let replaced = Layer::of(&[&members[..], &[Member::file(&"p".repeat(250), "y")]].concat());
        assert_eq!(replaced.at(&"p".repeat(250)), "file \"y\" 0644 0:0");
        let limits = Limits { directory_bytes: 100_000, ..Limits::default() };
        assert!(Layer::within(&tar(&members), &limits).error().contains("more directories than allowed"));
        std::fs::remove_dir_all(layer.dir.path()).unwrap();
    }

    fn files_with_holes_are_expanded() {
        let old = Member { sparse: vec![(512, 3), (5000, 0)], real_size: 5000, ..Member::new("S", "old") };
        let old = Member { data: "abc".into(), ..old };
        let zero = Member::file("GNUSparseFile.0/x", "abc").pax("GNU.sparse.size", "5000").pax("GNU.sparse.numblocks", "1");
        let zero = zero.pax("GNU.sparse.offset", "512").pax("GNU.sparse.numbytes", "3").pax("path", "zero");
        let one = Member::file("x", "abc").pax("GNU.sparse.size", "5000").pax("GNU.sparse.numblocks", "1");
        let one = one.pax("GNU.sparse.map", "512,3").pax("GNU.sparse.name", "one");
        let map = format!("{:\0<512}abc", "1\n512\n3\n");
        let new = Member::file("x", &map).pax("GNU.sparse.major", "1").pax("GNU.sparse.minor", "0");
        let new = new.pax("GNU.sparse.name", "new").pax("GNU.sparse.realsize", "5000");
        let layer = Layer::of(&[old, zero, one, new, Member::file("after", "end")]);
        assert_eq!(layer.at("after"), "file \"end\" 0644 0:0");
        let mut want = vec![0; 5000];
        want[512..515].copy_from_slice(b"abc");
        for name in ["old", "zero", "one", "new"] {
            assert_eq!(std::fs::read(layer.dir.path().join(name)).unwrap(), want, "{name}");
        }
    }

    fn the_digest_covers_what_follows_the_end_of_the_archive() {
        let mut stream = tar(&[Member::file("a", "x")]);
        stream.extend_from_slice(&[7; 1300]);
        assert_eq!(Layer::from_stream(&stream).applied().diff_id, Digest::of(&stream));
        let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
        gzip.write_all(&stream).unwrap();
        assert_eq!(Layer::from_stream(&gzip.finish().unwrap()).applied().diff_id, Digest::of(&stream));
        let zstd = zstd::encode_all(&stream[..], 1).unwrap();
        assert_eq!(Layer::from_stream(&zstd).applied().diff_id, Digest::of(&stream));
        assert_eq!(Layer::from_stream(b"").applied().diff_id, Digest::of(b""));
    }

    /// The layer docker used for "nothing changed": 1024 zero bytes, compressed to a well-known digest.
    fn the_empty_layer_is_a_layer() {
        let layer = Layer::from_stream(&[0; 1024]);
        let diff_id = "sha256:5f70bf18a086007016e948b04aed3b82103a36bea41755b6cddfaf10ace3c6ef";
        assert_eq!(layer.applied().diff_id.to_string(), diff_id);
    }

    /// A cut between two members cannot be told from an archive without end blocks; the digest tells it.
    fn a_stream_cut_off_at_any_block_is_an_error_or_an_archive_without_end_blocks() {
        let members = [Member::file(&"n".repeat(200), "x"), Member::file("b", &"y".repeat(1000)), Member::dir("c")];
        let whole = tar(&members);
        let between: Vec<usize> = (0..=3).map(|n| tar(&members[..n]).len() - 1024).collect();
        for end in (0..whole.len()).step_by(256) {
            let layer = Layer::from_stream(&whole[..end]);
            let fine = between.contains(&end) || end >= whole.len() - 512 && end % 512 == 0;
            assert_eq!(layer.result.is_ok(), fine, "{end} of {}", whole.len());
        }
    }

    fn limits_stop_a_layer_that_asks_for_too_much() {
        let stream = tar(&[Member::dir("a"), Member::file("a/b", &"x".repeat(5000)), Member::dir("c")]);
        let limits = Limits::default();
        let cases = [
            (Limits { entries: 2, ..limits }, "more than 2 members"),
            (Limits { bytes: 4000, ..limits }, "more than 4000"),
            (Limits { directory_bytes: 200, ..limits }, "more directories than allowed"),
        ];
        for (limits, text) in cases {
            let layer = Layer::within(&stream, &limits);
            assert!(layer.error().contains(text), "{}", layer.error());
            assert_eq!(layer.result.as_ref().unwrap_err().kind(), Kind::Invalid);
        }
        let holes = Member { real_size: 1 << 32, ..Member::new("S", "holes") };
        let limits = Limits { bytes: 1 << 20, ..limits };
        assert!(Layer::within(&tar(&[holes]), &limits).error().contains("more than the 1048576 allowed"));
        let long = Member { long_name: Some("n".repeat(2 << 20)), ..Member::file("x", "") };
        assert!(Layer::of(&[long]).error().contains("take more than 1048576 bytes"));
        let long = Member { long_name: Some("n/".repeat(10_000)), ..Member::file("x", "") };
        assert!(Layer::of(&[long]).error().contains("longer than 16384 bytes"));
    }

    fn a_full_disk_is_named_with_the_file() {
        if std::process::Command::new("unshare").args(["-m", "true"]).status().is_ok_and(|s| s.success()) {
            let dir = tempfile::tempdir().unwrap();
            let mount = rustix::mount::mount("none", dir.path(), "tmpfs", rustix::mount::MountFlags::empty(), Some(c"size=64k"));
            mount.unwrap();
            let root = File::open(dir.path()).unwrap();
            let stream = tar(&[Member::file("big", &"x".repeat(200_000))]);
            let error = apply(&stream[..], root.as_fd(), &Limits::default(), &mut |_| {}).unwrap_err();
            drop(root);
            rustix::mount::unmount(dir.path(), rustix::mount::UnmountFlags::DETACH).unwrap();
            assert!(error.chain().starts_with("unpack \"big\": write the file: no space left"), "{}", error.chain());
            assert!(error.first_hint().is_some());
        } else {
            println!("SKIP: no right to mount");
        }
    }

    fn a_directory_that_is_not_empty_is_refused() {
        let dir = tempfile::tempdir().unwrap();
        std::fs::write(dir.path().join("x"), "").unwrap();
        let root = File::open(dir.path()).unwrap();
        let error = apply(&tar(&[])[..], root.as_fd(), &Limits::default(), &mut |_| {}).unwrap_err();
        assert_eq!(error.kind(), Kind::Exists);
    }
}

/// A layer as sets, whose meaning no order can change.
#[derive(Debug, Clone, Default)]
struct Facts {
    files: BTreeSet<String>,
    dirs: BTreeSet<String>,
    hidden: BTreeSet<String>,
    opaque: BTreeSet<String>,
}

fn above(path: &str) -> impl Iterator<Item = &str> {
    path.match_indices('/').map(|(at, _)| &path[..at])
}

impl Facts {
    fn members(&self) -> Vec<Member> {
        let beside = |path: &str, name: &str| match path.rsplit_once('/') {
            Some((parent, last)) => format!("{parent}/{name}{last}"),
            None => format!("{name}{path}"),
        };
        let mut members: Vec<Member> = self.files.iter().map(|path| Member::file(path, path)).collect();
        members.extend(self.dirs.iter().map(|path| Member::dir(path).mode("711")));
        members.extend(self.hidden.iter().map(|path| whiteout(&beside(path, ".wh."))));
        members.extend(self.opaque.iter().map(|path| whiteout(&format!("{path}/.wh..wh..opq"))));
        members
    }

    /// The tree by the rules of layer.md, without applying anything.
    fn meaning(&self) -> BTreeMap<String, String> {
        let mut dirs: BTreeSet<&str> = self.dirs.iter().chain(&self.opaque).map(String::as_str).collect();
        for path in self.files.iter().chain(&self.dirs).chain(&self.opaque) {
            dirs.extend(above(path));
        }
        let hides_all =
            |path: &str| dirs.contains(path) && (self.opaque.contains(path) || self.hidden.contains(path));
        let marked = |path: &str| hides_all(path) && !above(path).any(hides_all);
        let there = |path: &str| dirs.contains(path) || self.files.contains(path);
        let needed = |path: &&String| {
            let gone =
                |up: &str| hides_all(up) || self.files.contains(up) || self.hidden.contains(up) && !there(up);
            !there(path) && !above(path).any(gone)
        };
        let whiteouts: Vec<&String> = self.hidden.iter().filter(needed).collect();
        let bare = whiteouts.iter().flat_map(|path| above(path));
        let mut tree = BTreeMap::new();
        for dir in dirs.iter().copied().chain(bare) {
            let look = if self.dirs.contains(dir) { "0711" } else { "0755" };
            tree.insert(dir.to_owned(), format!("dir {look}{}", if marked(dir) { " opaque" } else { "" }));
        }
        tree.extend(self.files.iter().map(|path| (path.clone(), format!("file {path}"))));
        tree.extend(whiteouts.into_iter().map(|path| (path.clone(), "whiteout".to_owned())));
        tree
    }
}

fn found(root: &Path) -> BTreeMap<String, String> {
    let mut tree = BTreeMap::new();
    for (path, what) in snapshot(root) {
        let path = String::from_utf8(path).unwrap();
        let words: Vec<&str> = what.split(' ').collect();
        let short = match words[0] {
            "dir" => format!("dir {}{}", words[1], if what.contains("opaque=y") { " opaque" } else { "" }),
            "file" => format!("file {}", words[1].trim_matches('"')),
            other => other.to_owned(),
        };
        tree.insert(path, short);
    }
    tree.remove("");
    tree
}

/// Names that collide often: directories d0 and d1 up to three deep, files f0 and f1, and whiteouts of all of them.
fn facts() -> impl Strategy<Value = Facts> {
    let dir = prop::collection::vec(0..2u8, 1..4)
        .prop_map(|parts| parts.iter().map(|n| format!("d{n}")).collect::<Vec<_>>().join("/"));
    let file = (prop::option::of(dir.clone()), 0..2u8)
        .prop_map(|(dir, n)| dir.map_or_else(|| format!("f{n}"), |dir| format!("{dir}/f{n}")));
    let hidden = prop_oneof![dir.clone(), file.clone(), file.clone().prop_map(|file| format!("{file}/x"))];
    let set = |one: BoxedStrategy<String>, most| prop::collection::btree_set(one, 0..most);
    (set(file.boxed(), 4), set(dir.clone().boxed(), 4), set(hidden.boxed(), 5), set(dir.boxed(), 2))
        .prop_map(|(files, dirs, hidden, opaque)| Facts { files, dirs, hidden, opaque })
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn every_order_of_the_members_gives_the_tree_that_the_rules_say(
        (facts, members) in facts().prop_flat_map(|facts| {
            let members = Just(facts.members()).prop_shuffle();
            (Just(facts), members)
        })
    ) {
        if unless_root() { return Ok(()); }
        let layer = Layer::of(&members);
        prop_assert!(layer.result.is_ok(), "{}", layer.error());
        let names: Vec<&str> = members.iter().map(|m| m.name.as_str()).collect();
        prop_assert_eq!(found(layer.dir.path()), facts.meaning(), "{:?}", names);
    }

    #[test]
    fn a_compressed_layer_cut_off_anywhere_is_an_error(cut in 0.0..1.0f64, use_zstd: bool) {
        if unless_root() { return Ok(()); }
        let stream = tar(&[Member::dir("a"), Member::file("a/b", &"some text ".repeat(3000)), Member::file("c", "")]);
        let whole = if use_zstd {
            zstd::encode_all(&stream[..], 3).unwrap()
        } else {
            let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::default());
            gzip.write_all(&stream).unwrap();
            gzip.finish().unwrap()
        };
        let end = 1 + (cut * (whole.len() - 1) as f64) as usize;
        prop_assert!(end == whole.len() || Layer::from_stream(&whole[..end]).result.is_err());
    }

    #[test]
    fn damaged_archives_never_panic(
        flips in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6)
    ) {
        let one = Member::file("x", "1\n0\n3\n").pax("GNU.sparse.map", "0,3").pax("SCHILY.xattr.user.a", "b");
        let old = Member { sparse: vec![(0, 3)], real_size: 9, data: "abc".into(), ..Member::new("S", "s") };
        let mut stream = tar(&[one, old, Member::linked("link", "l", "s"), Member::file(&"n".repeat(150), "z")]);
        for (at, value) in flips {
            let at = at.index(stream.len());
            stream[at] = value;
            repair_checksum(&mut stream, at);
        }
        let _ = coracle::image::tar::list(&stream, coracle::image::tar::Limits::default());
    }
}

/// Makes the block fit its checksum again, so that damage gets past the first check.
fn repair_checksum(stream: &mut [u8], at: usize) {
    let block = &mut stream[at / 512 * 512..][..512];
    block[148..156].fill(b' ');
    let sum: u64 = block.iter().map(|b| u64::from(*b)).sum();
    block[148..156].copy_from_slice(format!("{sum:06o}\0 ").as_bytes());
}
