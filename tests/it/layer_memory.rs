//! Unpacking takes the same little memory whatever the size of the layer, and few system calls for each file.

#![expect(clippy::unwrap_used, clippy::panic, reason = "a test says what went wrong by failing")]

use std::fs::File;
use std::io::{Cursor, Read, Write};
use std::os::fd::AsFd;
use std::process::Command;

use coracle::image::layer::{Limits, apply_recorded};

use crate::image_fixture::{Image, Layout, Pack};
use crate::layer_tar::{Member, tar};
use crate::support::{Run, Runtime};

/// Says to the child which layer to unpack: its form, and the megabytes of its one big file.
const ASKED: &str = "CORACLE_TEST_LAYER_MEMORY";

/// A layer with one big file of changing bytes, made while it is read, and many small files.
pub(crate) fn stream(megabytes: u64) -> impl Read {
    let size = megabytes << 20;
    let big = tar(&[Member { size: Some(size), ..Member::file("big", "") }])[..512].to_vec();
    let small: Vec<Member> =
        (0..megabytes * 20).map(|n| Member::file(&format!("f{n}"), "some text")).collect();
    let mut word = 1u64;
    let data = std::iter::from_fn(move || {
        word = word.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        Some(word)
    });
    Cursor::new(big).chain(Words { words: data }.take(size)).chain(Cursor::new(tar(&small)))
}

struct Words<I> {
    words: I,
}

impl<I: Iterator<Item = u64>> Read for Words<I> {
    fn read(&mut self, buffer: &mut [u8]) -> std::io::Result<usize> {
        let length = buffer.len() / 64 * 64;
        for piece in buffer[..length].chunks_mut(64) {
            piece.fill(self.words.next().unwrap_or_default().to_le_bytes()[7]);
        }
        Ok(length)
    }
}

fn compressed(form: &str, megabytes: u64) -> File {
    let mut file = tempfile::tempfile().unwrap();
    let mut from = stream(megabytes);
    match form {
        "gzip" => {
            let mut to = flate2::write::GzEncoder::new(&file, flate2::Compression::fast());
            std::io::copy(&mut from, &mut to).unwrap();
            to.finish().unwrap();
        }
        _ => {
            let mut to = zstd::Encoder::new(&file, 1).unwrap();
            to.window_log(23).unwrap();
            std::io::copy(&mut from, &mut to).unwrap();
            to.finish().unwrap();
        }
    }
    file.flush().unwrap();
    std::io::Seek::rewind(&mut file).unwrap();
    file
}

/// Does nothing by itself: the test below runs it in a process of its own.
#[test]
fn child_that_unpacks_what_it_is_asked_to() {
    if std::env::var_os(ASKED).is_none() {
        return;
    }
    let dir = tempfile::tempdir().unwrap();
    let root = File::open(dir.path()).unwrap();
    let record = Some(tempfile::tempfile().unwrap());
    apply_recorded(std::io::stdin(), root.as_fd(), record, &Limits::default(), &mut |_| {}).unwrap();
    let status = std::fs::read_to_string("/proc/self/status").unwrap();
    let peak = status.lines().find(|line| line.starts_with("VmHWM:")).unwrap();
    println!("\n{peak}");
}

/// The most memory a process had that unpacked such a layer, in KiB.
fn peak(form: &str, megabytes: u64) -> u64 {
    let mut child = Command::new(std::env::current_exe().unwrap());
    child.args(["--exact", "layer_memory::child_that_unpacks_what_it_is_asked_to", "--nocapture"]);
    child.env(ASKED, "1").stdin(compressed(form, megabytes));
    let out = String::from_utf8(child.output().unwrap().stdout).unwrap();
    let line = out.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap_or_else(|| panic!("{out}"));
    line.split_whitespace().next().unwrap().parse().unwrap()
}

/// The promise: 4 MiB more for gzip and 12 MiB for zstd, whatever the size of the image.
#[test]
fn memory_stays_within_the_budget_and_does_not_grow_with_the_layer() {
    if !rustix::process::geteuid().is_root() {
        println!("SKIP: layers need root, for owners");
        return;
    }
    let nothing = peak("gzip", 0);
    for (form, budget) in [("gzip", 4 << 10), ("zstd", 12 << 10)] {
        let (small, large) = (peak(form, 8), peak(form, 40));
        println!("{form}: {nothing} KiB for nothing, {small} for 8 MiB, {large} for 40 MiB");
        assert!(large <= nothing + budget, "{form}: {nothing} -> {large} KiB");
        assert!(large <= small + 512, "{form}: grows from {small} to {large} KiB");
    }
}

/// Create, write, owner, mode, time, close; the rest is reading the stream, directories, and the store's own work.
#[test]
fn a_file_takes_at_most_eight_system_calls() {
    needs!(root, strace);
    const FILES: u64 = 2000;
    let data = "some text ".repeat(800);
    let mut members = Vec::new();
    for n in 0..FILES {
        if n % 100 == 0 {
            members.push(Member::dir(&format!("d{}", n / 100)));
        }
        members.push(Member::file(&format!("d{}/f{n}", n / 100), &data));
    }
    let dir = tempfile::tempdir().unwrap();
    let image = Image { layers: vec![tar(&members)], pack: Pack::Gzip, platform: "", name: None };
    Layout::of(image).write(&dir.path().join("layout"));
    let counts = dir.path().join("counts");
    Run::new("strace")
        .args(["-f", "-c", "-U", "calls,name", "-o"])
        .arg(&counts)
        .arg(Runtime::Ours.program())
        .arg("--store")
        .arg(dir.path().join("store"))
        .args(["image", "import"])
        .arg(dir.path().join("layout"))
        .go()
        .ok();
    let text = std::fs::read_to_string(&counts).unwrap();
    let count = |line: &str| -> Option<u64> {
        let (count, name) = line.trim().split_once(char::is_whitespace)?;
        // Rust's standard library looks at each descriptor before it closes it, in unoptimised builds alone.
        if ["fcntl", "total"].contains(&name.trim()) { None } else { count.parse().ok() }
    };
    let calls: u64 = text.lines().filter_map(count).sum();
    println!("{:.2} calls for each file", calls as f64 / FILES as f64);
    assert!(calls > 4 * FILES && calls <= 8 * FILES, "{text}");
}
