//! Statistics that only metrics need: transfers of block devices, huge pages, kernel memory.

use std::collections::BTreeMap;
use std::io;

use super::dir::Dir;
use super::{Group, Mode};

/// What the processes of a cgroup have transferred from and to a block device.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct DeviceIo {
    /// The device's numbers.
    pub device: (u32, u32),
    /// Bytes by operation; `Read` and `Write` are the usual ones.
    pub bytes: BTreeMap<String, u64>,
    /// Requests by operation.
    pub requests: BTreeMap<String, u64>,
}

/// The use of huge pages of one size, in bytes.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct HugePages {
    /// The size of a page as the kernel writes it, for example `2MB`.
    pub size: String,
    /// What is used now.
    pub usage: u64,
    /// The highest usage so far; only v1 knows it.
    pub peak: Option<u64>,
}

impl Group {
    /// Transfers by block device; empty where the controller is missing or has seen none.
    pub fn device_io(&self) -> Vec<DeviceIo> {
        let mut found = BTreeMap::new();
        match self.mode() {
            Mode::V2 => parse_v2(&self.text("", "io.stat").unwrap_or_default(), &mut found),
            Mode::V1 => {
                // The files of the I/O scheduler stay empty where it does not count.
                let read = |file: &str| self.text("blkio", file).unwrap_or_default();
                let bytes = read("blkio.throttle.io_service_bytes_recursive");
                parse_v1(&bytes, &mut found, |io| &mut io.bytes);
                let requests = read("blkio.throttle.io_serviced_recursive");
                parse_v1(&requests, &mut found, |io| &mut io.requests);
            }
        }
        found.into_values().collect()
    }

    /// Memory that the kernel uses for these processes, in bytes, as far as it is not in memory.stat; only on v1.
    pub fn kernel_memory(&self) -> Option<u64> {
        match self.mode() {
            Mode::V1 => self.text("memory", "memory.kmem.usage_in_bytes").ok()?.trim().parse().ok(),
            Mode::V2 => None,
        }
    }

    /// The use of huge pages by page size; empty where the controller is missing.
    pub fn huge_pages(&self) -> Vec<HugePages> {
        let (controller, usage) = match self.mode() {
            Mode::V1 => ("hugetlb", "usage_in_bytes"),
            Mode::V2 => ("", "current"),
        };
        let Ok(dir) = self.open(controller) else { return Vec::new() };
        let number = |file: String| dir.read(&file).ok()?.trim().parse().ok();
        let pages = |size: String| {
            let usage = number(format!("hugetlb.{size}.{usage}"))?;
            let peak = number(format!("hugetlb.{size}.max_usage_in_bytes"));
            Some(HugePages { usage, peak, size })
        };
        page_sizes().into_iter().filter_map(pages).collect()
    }

    fn text(&self, controller: &str, file: &str) -> io::Result<String> {
        let gone = || io::Error::from(io::ErrorKind::NotFound);
        let dir: Dir = self.open(controller).map_err(|_| gone())?;
        dir.read(file)
    }
}

/// The sizes of huge pages on this machine, as cgroups name them.
fn page_sizes() -> Vec<String> {
    let entries = std::fs::read_dir("/sys/kernel/mm/hugepages").into_iter().flatten().flatten();
    let names = entries.filter_map(|entry| entry.file_name().into_string().ok());
    let kilobytes = |name: String| name.strip_prefix("hugepages-")?.strip_suffix("kB")?.parse().ok();
    let mut sizes: Vec<u64> = names.filter_map(kilobytes).collect();
    sizes.sort_unstable();
    sizes.into_iter().map(page_size).collect()
}

fn page_size(kilobytes: u64) -> String {
    match kilobytes {
        large if large >= 1 << 20 => format!("{}GB", large >> 20),
        medium if medium >= 1 << 10 => format!("{}MB", medium >> 10),
        small => format!("{small}KB"),
    }
}

fn numbers(text: &str) -> Option<(u32, u32)> {
    let (major, minor) = text.split_once(':')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

/// `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6`
fn parse_v2(text: &str, found: &mut BTreeMap<(u32, u32), DeviceIo>) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let Some(device) = words.next().and_then(numbers) else { continue };
        let io = found.entry(device).or_insert_with(|| DeviceIo { device, ..DeviceIo::default() });
        for (key, value) in words.filter_map(|word| word.split_once('=')) {
            let Ok(value) = value.parse() else { continue };
            let (by, operation) = match key {
                "rbytes" => (&mut io.bytes, "Read"),
                "wbytes" => (&mut io.bytes, "Write"),
                "dbytes" => (&mut io.bytes, "Discard"),
                "rios" => (&mut io.requests, "Read"),
                "wios" => (&mut io.requests, "Write"),
                "dios" => (&mut io.requests, "Discard"),
                _ => continue,
            };
            by.insert(operation.to_owned(), value);
        }
    }
}

/// `8:0 Read 1`, and a last line with the total of all devices.
fn parse_v1(
    text: &str,
    found: &mut BTreeMap<(u32, u32), DeviceIo>,
    by: impl Fn(&mut DeviceIo) -> &mut BTreeMap<String, u64>,
) {
    for line in text.lines() {
        let mut words = line.split(' ');
        let (device, operation, value) = (words.next().and_then(numbers), words.next(), words.next());
        let (Some(device), Some(operation), Some(Ok(value))) = (device, operation, value.map(str::parse))
        else {
            continue;
        };
        let io = found.entry(device).or_insert_with(|| DeviceIo { device, ..DeviceIo::default() });
        by(io).insert(operation.to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transfers_are_parsed_on_both_versions() {
        let mut found = BTreeMap::new();
        parse_v2("8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=5 dios=6\n8:16\nbroken\n", &mut found);
        let io = &found[&(8, 0)];
        assert_eq!((io.bytes["Read"], io.bytes["Write"], io.bytes["Discard"]), (1, 2, 5));
        assert_eq!((io.requests["Read"], io.requests["Write"]), (3, 4));
        assert!(found[&(8, 16)].bytes.is_empty());
        let mut found = BTreeMap::new();
        parse_v1("259:0 Read 7\n259:0 Sync 8\n259:0 Total 9\nTotal 9\n", &mut found, |io| &mut io.bytes);
        parse_v1("259:0 Read 1\n", &mut found, |io| &mut io.requests);
        assert_eq!(found.len(), 1);
        let io = &found[&(259, 0)];
        assert_eq!((io.bytes["Read"], io.bytes["Sync"], io.requests["Read"]), (7, 8, 1));
    }

    #[test]
    fn sizes_of_pages_are_named_as_the_kernel_names_them() {
        assert_eq!([64, 2048, 1 << 20, 16 << 20].map(page_size), ["64KB", "2MB", "1GB", "16GB"]);
    }
}
