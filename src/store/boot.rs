//! The id of the machine's current boot.

/// The boot's id from the kernel, or an empty text where it is not available; then all boots count as the same.
pub(super) fn id() -> String {
    let id = std::fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
    id.trim_end().to_owned()
}
