//! Which boot of the machine this is.

/// The boot's id as the kernel gives it, or nothing where it does not: then no boot differs from another.
pub(super) fn id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}
