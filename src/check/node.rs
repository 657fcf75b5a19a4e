//! The machine: clock, space, flash.

use std::path::Path;
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::fs::{StatVfsMountFlags, statvfs};

use super::{Row, Tree};
use crate::serve::config::Config;

/// 2026-11-01: this program is not older.
const WRITTEN: u64 = 1_793_491_200;
/// kubelet evicts pods when less than 15 % of the image file system are free.
const EVICTION_PERCENT: u64 = 15;
/// Below this nothing works any more, in bytes.
const LEAST: u64 = 100 << 20;
/// What records and logs of a node with many pods take on the run directory's tmpfs, in bytes.
const LEAST_OF_RUN: u64 = 16 << 20;

pub(super) fn rows(tree: &Tree, config: &Config) -> Vec<Row> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    let mut rows = vec![
        clock(tree, now),
        store(&tree.path(&config.store).unwrap_or_default()),
        run(&tree.path(&config.run).unwrap_or_default()),
    ];
    rows.extend(flash(tree));
    rows
}

pub(super) fn clock(tree: &Tree, now: u64) -> Row {
    if now < WRITTEN {
        let date = crate::record::time::rfc3339(now.cast_signed() * 1_000_000_000);
        return Row::error("clock", format!("it says {date}, so certificates of registries are not valid yet"))
            .advise("start a time service (timedatectl set-ntp true), or set the clock; without a battery a clock starts in the past");
    }
    match (
        tree.has("/run/systemd/timesync/synchronized") || tree.program(&["chronyd", "ntpd"]).is_some(),
        tree.has("/sys/class/rtc/rtc0"),
    ) {
        (true, _) => Row::ok("clock", "it is set by a time service"),
        (false, true) => Row::ok("clock", "it is set, by a clock with a battery"),
        (false, false) => Row::warning(
            "clock",
            "neither a time service nor a clock with a battery was found, so it goes wrong after a power cut",
        )
        .advise("install systemd-timesyncd or chrony"),
    }
}

fn store(path: &Path) -> Row {
    let Some((path, stat)) = nearest(path) else {
        return Row::warning("store", "its file system cannot be read");
    };
    if let Some(row) = read_only("store", &path, stat.f_flag) {
        return row;
    }
    let (free, total) = (stat.f_bavail * stat.f_frsize, stat.f_blocks * stat.f_frsize);
    space(&path, (free, total), (stat.f_favail, stat.f_files))
}

/// Judges free and total bytes and inodes. File systems that make inodes as they need them have a total of 0.
pub(super) fn space(path: &Path, (free, total): (u64, u64), (inodes, all_inodes): (u64, u64)) -> Row {
    let percent = |part: u64, whole: u64| part.saturating_mul(100).checked_div(whole).unwrap_or(100);
    let shown = format!(
        "{} MB ({} %) and {} % of the inodes are free at {}",
        free / 1_000_000,
        percent(free, total),
        percent(inodes, all_inodes),
        path.display()
    );
    if free < LEAST || (all_inodes > 0 && inodes < 1000) {
        return Row::error("store", shown)
            .advise("free some: `coracle image prune --all`, or move `store` to a larger disk");
    }
    match percent(free, total) < EVICTION_PERCENT || percent(inodes, all_inodes) < 5 {
        true => Row::warning("store", format!("{shown}: kubelet removes images and evicts pods"))
            .advise("free some: `coracle image prune`, or move `store` to a larger disk"),
        false => Row::ok("store", shown),
    }
}

/// The row of a directory on a read-only file system; `None` if it can be written.
pub(super) fn read_only(topic: &'static str, path: &Path, flags: StatVfsMountFlags) -> Option<Row> {
    let row = || {
        let finding = format!("the file system at {} is read-only, so nothing can be stored", path.display());
        Row::error(topic, finding).advise(format!(
            "set `{topic}` to a directory on a writable file system; if it should be one, see dmesg(1) for disk errors"
        ))
    };
    flags.contains(StatVfsMountFlags::RDONLY).then(row)
}

/// The file system of a path, or of its nearest ancestor that exists.
fn nearest(path: &Path) -> Option<(std::path::PathBuf, rustix::fs::StatVfs)> {
    path.ancestors().find_map(|path| Some((path.to_owned(), statvfs(path).ok()?)))
}

fn run(path: &Path) -> Row {
    let Some((path, stat)) = nearest(path) else {
        return Row::warning("run", "its file system cannot be read");
    };
    if let Some(row) = read_only("run", &path, stat.f_flag) {
        return row;
    }
    let free = stat.f_bavail * stat.f_frsize;
    let is_memory = rustix::fs::statfs(&path).is_ok_and(|stat| stat.f_type as u32 == 0x0102_1994);
    let shown = format!("{} MB are free at {}", free / 1_000_000, path.display());
    if free < LEAST_OF_RUN {
        return Row::warning("run", shown).advise("enlarge the tmpfs: mount -o remount,size=64M /run");
    }
    match is_memory {
        true => Row::ok("run", shown),
        false => Row::warning(
            "run",
            format!(
                "{shown}, which is no tmpfs: records of pods wear out the flash, and stay after a reboot"
            ),
        )
        .advise("set `run` to a directory on a tmpfs, such as /run/coracle"),
    }
}

/// What eMMC and SD cards report of their wear; JEDEC JESD84-B51, EXT_CSD_DEVICE_LIFE_TIME_EST and PRE_EOL_INFO.
fn flash(tree: &Tree) -> Vec<Row> {
    let cards = tree
        .names("/sys/block")
        .into_iter()
        .filter(|name| name.starts_with("mmcblk") && !name.contains("boot"));
    let rows: Vec<Row> = cards.filter_map(|card| wear(tree, &card)).collect();
    match rows.is_empty() {
        true => vec![Row::not_applicable("flash", "no device reports its wear")],
        false => rows,
    }
}

fn wear(tree: &Tree, card: &str) -> Option<Row> {
    let device = |name: &str| tree.text(format!("/sys/block/{card}/device/{name}"));
    let hex = |text: &str| u32::from_str_radix(text.trim_start_matches("0x"), 16).ok();
    // Two estimates, for the two kinds of memory in it, in tenths: 1 for up to 10 %, 11 for more than 100 %, 0 for unknown.
    let used =
        device("life_time").and_then(|text| text.split_whitespace().filter_map(hex).max()).unwrap_or(0);
    // Of the spare blocks: 1 normal, 2 for 80 % used, 3 for 90 %, 0 for unknown.
    let spare = device("pre_eol_info").and_then(|text| hex(&text)).unwrap_or(0);
    let finding = match used {
        0 if spare == 0 => return None,
        0 => format!("{card} reports only how many spare blocks it has left"),
        1..=10 => format!("{card} has used {} to {} % of its life", (used - 1) * 10, used * 10),
        _ => format!("{card} has used more than 100 % of its life"),
    };
    let advice = "save what it holds and replace it; `state_on_tmpfs = true` lets containers write less";
    Some(match (used, spare) {
        (11.., _) | (_, 3) => Row::error("flash", finding).advise(advice),
        (9 | 10, _) | (_, 2) => Row::warning("flash", finding).advise(advice),
        _ => Row::ok("flash", finding),
    })
}
