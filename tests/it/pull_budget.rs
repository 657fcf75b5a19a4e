//! What a pull may take: memory that does not grow with the image, and hardly a byte more on disk than the image has.

use std::io::{Read, Write};
use std::path::Path;

use serde_json::json;

use super::image_fixture::Layout;
use super::layer_memory::stream;
use super::pull_fixture::place;
use super::support::registry::TestRegistry;
use super::support::{Run, Runtime};

/// The size of the large layer.
const MEGABYTES: u64 = 300;

/// What a pull took.
struct Cost {
    /// The largest resident set, in KiB.
    peak_kib: u64,
    /// Bytes that reached the block device, the file system's own included.
    written: u64,
    /// Bytes that the file system has more in use than before.
    there: u64,
}

/// Serves an image of one layer, with a file of this many megabytes and many small ones, in gzip and in zstd form.
/// Returns their names.
fn serve(registry: &TestRegistry, megabytes: u64) -> [String; 2] {
    let mut hashed = coracle::digest::Hasher::new();
    let mut from = stream(megabytes);
    let mut gzip = flate2::write::GzEncoder::new(Vec::new(), flate2::Compression::fast());
    let mut zstd = zstd::Encoder::new(Vec::new(), 1).unwrap();
    zstd.window_log(23).unwrap();
    let mut buffer = vec![0; 1 << 20];
    loop {
        let count = from.read(&mut buffer).unwrap();
        if count == 0 {
            break;
        }
        hashed.update(&buffer[..count]);
        gzip.write_all(&buffer[..count]).unwrap();
        zstd.write_all(&buffer[..count]).unwrap();
    }
    let diff_id = hashed.finish();
    let packed = [("gzip", gzip.finish().unwrap()), ("zstd", zstd.finish().unwrap())];
    packed.map(|(form, blob)| {
        let mut layout = Layout::new();
        let layer = layout.blob(&format!("application/vnd.oci.image.layer.v1.tar+{form}"), blob);
        let mut config = serde_json::to_value(coracle::image::platform::host()).unwrap();
        config["rootfs"] = json!({"type": "layers", "diff_ids": [diff_id]});
        let config = serde_json::to_vec(&config).unwrap();
        let config = layout.blob("application/vnd.oci.image.config.v1+json", config);
        let manifest_type = "application/vnd.oci.image.manifest.v1+json";
        let manifest =
            json!({"schemaVersion": 2, "mediaType": manifest_type, "config": config, "layers": [layer]});
        let entry = layout.blob(manifest_type, serde_json::to_vec(&manifest).unwrap());
        layout.entries().push(entry);
        let name = format!("{form}:{megabytes}");
        registry.layout(&layout, &name);
        registry.name(&name)
    })
}

/// Pulls into a fresh ext4 on a loop device, in a mount namespace that takes both with it: prints what GNU time says, the
/// sectors written to the device (iostats.rst, field 7), and the file system's blocks of 1024 bytes used before and after.
const SCRIPT: &str = r#"
    set -e
    disk=$1 place=$2 report=$3; shift 3
    rm -f "$disk"; truncate -s 1G "$disk"; mkdir -p "$place"
    PATH=$PATH:/sbin mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 "$disk"
    mount -o loop "$disk" "$place"
    device=$(awk -v place="$place" '$2 == place { sub(".*/", "", $1); print $1 }' /proc/mounts)
    written() { sync -f "$place"; awk '{ print $7 }' "/sys/block/$device/stat"; }
    used() { df -k --output=used "$place" | tail -n 1; }
    before=$(written) had=$(used)
    /usr/bin/time -f %M -o "$report" "$1" --store "$place/store" image pull --quiet "$2" >/dev/null
    after=$(written)
    echo "$(cat "$report") $((after - before)) $(($(used) - had))"
"#;

fn cost(dir: &Path, name: &str) -> Cost {
    let out = Run::new("unshare")
        .args(["--mount", "sh", "-c", SCRIPT, "sh"])
        .args([dir.join("disk"), dir.join("mounted"), dir.join("report"), Runtime::Ours.program()])
        .arg(name)
        .patience(std::time::Duration::from_secs(240))
        .go()
        .ok();
    let numbers: Vec<u64> = out.text().split_whitespace().map(|number| number.parse().unwrap()).collect();
    Cost { peak_kib: numbers[0], written: numbers[1] * 512, there: numbers[2] * 1024 }
}

/// The promise: at most 4 MiB more for gzip and 12 MiB for zstd than a pull of next to nothing, and 1.05 bytes written
/// for each byte that is there in the end.
#[test]
fn a_pull_takes_little_memory_and_writes_each_byte_once() {
    needs!(root, gnu_time, mkfs_ext4);
    let (place, registry) = (place(), TestRegistry::start());
    let dir = place.dir.path();
    let nothing = cost(dir, &serve(&registry, 0)[0]);
    assert!(nothing.peak_kib > 500, "{} KiB is no process", nothing.peak_kib);
    for (name, budget) in serve(&registry, MEGABYTES).iter().zip([4 << 10, 12 << 10]) {
        let Cost { peak_kib, written, there } = cost(dir, name);
        println!("{name}: {} -> {peak_kib} KiB, {written} bytes for {there}", nothing.peak_kib);
        assert!(peak_kib <= nothing.peak_kib + budget, "{} -> {peak_kib} KiB", nothing.peak_kib);
        assert!(there > MEGABYTES << 20 && written >= there / 2, "{written} bytes for {there}");
        assert!(written as f64 <= there as f64 * 1.05, "{written} bytes for {there}");
    }
}
