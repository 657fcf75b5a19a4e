//! The names, types and labels of all metrics, as in cAdvisor.

use coracle_cri::v1;
use coracle_cri::v1::MetricType::{Counter, Gauge};

use super::{BASE, Metric};

/// Defines a constant for each metric, and the function that lists their descriptors.
macro_rules! metrics {
    ($($id:ident $kind:ident $name:literal [$($label:literal),*] $help:literal;)+) => {
        $(
            pub(super) const $id: Metric<{ let labels: &[&str] = &[$($label),*]; labels.len() }> =
                Metric { name: concat!("container_", $name), kind: $kind };
        )+

        /// The descriptors of all metrics.
        pub(in crate::pod) fn all() -> Vec<v1::MetricDescriptor> {
            vec![$(descriptor(concat!("container_", $name), $help, &[$($label),*])),+]
        }
    };
}

fn descriptor(name: &str, help: &str, labels: &[&str]) -> v1::MetricDescriptor {
    let label_keys = BASE.iter().chain(labels).map(|key| (*key).to_owned()).collect();
    v1::MetricDescriptor { name: name.to_owned(), help: help.to_owned(), label_keys }
}

metrics! {
    CPU_USER Counter "cpu_user_seconds_total" [] "CPU time in user space, in seconds.";
    CPU_SYSTEM Counter "cpu_system_seconds_total" [] "CPU time in the kernel, in seconds.";
    CPU_USAGE Counter "cpu_usage_seconds_total" ["cpu"] "CPU time, in seconds.";
    CPU_PERIODS Counter "cpu_cfs_periods_total" [] "Quota periods in which a process ran.";
    CPU_THROTTLED_PERIODS Counter "cpu_cfs_throttled_periods_total" [] "Quota periods in which the quota was used up.";
    CPU_THROTTLED Counter "cpu_cfs_throttled_seconds_total" [] "Time during which processes were throttled, in seconds.";

    MEMORY_CACHE Gauge "memory_cache" [] "Page cache, in bytes.";
    MEMORY_RSS Gauge "memory_rss" [] "Anonymous memory, in bytes.";
    MEMORY_KERNEL Gauge "memory_kernel_usage" [] "Memory that the kernel uses, in bytes.";
    MEMORY_MAPPED Gauge "memory_mapped_file" [] "Memory-mapped files, in bytes.";
    MEMORY_SWAP Gauge "memory_swap" [] "Swap, in bytes.";
    MEMORY_USAGE Gauge "memory_usage_bytes" [] "Memory with the page cache, in bytes.";
    MEMORY_MAX Gauge "memory_max_usage_bytes" [] "The highest memory usage so far, in bytes; 0 where the kernel does not know it.";
    MEMORY_WORKING_SET Gauge "memory_working_set_bytes" [] "Memory without the inactive page cache, in bytes.";
    MEMORY_ACTIVE_FILE Gauge "memory_total_active_file_bytes" [] "The active part of the page cache, in bytes.";
    MEMORY_INACTIVE_FILE Gauge "memory_total_inactive_file_bytes" [] "The inactive part of the page cache, in bytes.";
    MEMORY_FAILCNT Counter "memory_failcnt" [] "How often the memory limit was hit.";
    MEMORY_FAILURES Counter "memory_failures_total" ["failure_type", "scope"] "Page faults.";
    OOM_EVENTS Counter "oom_events_total" [] "Processes that the kernel has killed for want of memory.";

    FS_INODES_FREE Gauge "fs_inodes_free" ["device"] "Free inodes of the filesystem of the writable layer.";
    FS_INODES_TOTAL Gauge "fs_inodes_total" ["device"] "Inodes of the filesystem of the writable layer.";
    FS_LIMIT Gauge "fs_limit_bytes" ["device"] "The size of the filesystem of the writable layer, in bytes.";
    FS_USAGE Gauge "fs_usage_bytes" ["device"] "The size of the writable layer, in bytes.";
    FS_READ_BYTES Counter "fs_reads_bytes_total" ["device"] "Bytes read.";
    FS_READS Counter "fs_reads_total" ["device"] "Completed reads.";
    FS_WRITE_BYTES Counter "fs_writes_bytes_total" ["device"] "Bytes written.";
    FS_WRITES Counter "fs_writes_total" ["device"] "Completed writes.";
    BLKIO Counter "blkio_device_usage_total" ["device", "major", "minor", "operation"] "Bytes transferred, by operation.";

    HUGETLB Gauge "hugetlb_usage_bytes" ["pagesize"] "Huge pages in use, in bytes.";
    HUGETLB_MAX Gauge "hugetlb_max_usage_bytes" ["pagesize"] "The highest use of huge pages so far, in bytes.";

    RECEIVE_BYTES Counter "network_receive_bytes_total" ["interface"] "Bytes received.";
    RECEIVE_PACKETS Counter "network_receive_packets_total" ["interface"] "Packets received.";
    RECEIVE_DROPPED Counter "network_receive_packets_dropped_total" ["interface"] "Packets dropped while receiving.";
    RECEIVE_ERRORS Counter "network_receive_errors_total" ["interface"] "Errors while receiving.";
    TRANSMIT_BYTES Counter "network_transmit_bytes_total" ["interface"] "Bytes sent.";
    TRANSMIT_PACKETS Counter "network_transmit_packets_total" ["interface"] "Packets sent.";
    TRANSMIT_DROPPED Counter "network_transmit_packets_dropped_total" ["interface"] "Packets dropped while sending.";
    TRANSMIT_ERRORS Counter "network_transmit_errors_total" ["interface"] "Errors while sending.";

    PROCESSES Gauge "processes" [] "Processes.";
    FILE_DESCRIPTORS Gauge "file_descriptors" [] "Open file descriptors of all processes, counted up to 65536.";
    SOCKETS Gauge "sockets" [] "Open sockets of all processes.";
    THREADS Gauge "threads" [] "Threads of all processes.";
    THREADS_MAX Gauge "threads_max" [] "The limit of threads; 0 if there is none.";
    ULIMITS Gauge "ulimits_soft" ["ulimit"] "Soft limits of the init process.";

    LAST_SEEN Gauge "last_seen" [] "When this was read, in seconds since 1970.";
    START_TIME Gauge "start_time_seconds" [] "When it was started, in seconds since 1970.";

    SPEC_CPU_PERIOD Gauge "spec_cpu_period" [] "The period of the CPU quota, in microseconds.";
    SPEC_CPU_SHARES Gauge "spec_cpu_shares" [] "CPU shares.";
    SPEC_CPU_QUOTA Gauge "spec_cpu_quota" [] "The CPU quota of a period, in microseconds; 0 if there is none.";
    SPEC_MEMORY_LIMIT Gauge "spec_memory_limit_bytes" [] "The memory limit, in bytes; 0 if there is none.";
    SPEC_MEMORY_RESERVATION Gauge "spec_memory_reservation_limit_bytes" [] "The memory reservation, in bytes; 0 if there is none.";
    SPEC_MEMORY_SWAP Gauge "spec_memory_swap_limit_bytes" [] "The limit of memory and swap, in bytes; 0 if there is none.";

    PRESSURE_CPU_WAITING Counter "pressure_cpu_waiting_seconds_total" [] "Time during which a process waited for a CPU, in seconds.";
    PRESSURE_CPU_STALLED Counter "pressure_cpu_stalled_seconds_total" [] "Time during which all processes waited for a CPU, in seconds.";
    PRESSURE_MEMORY_WAITING Counter "pressure_memory_waiting_seconds_total" [] "Time during which a process waited for memory, in seconds.";
    PRESSURE_MEMORY_STALLED Counter "pressure_memory_stalled_seconds_total" [] "Time during which all processes waited for memory, in seconds.";
    PRESSURE_IO_WAITING Counter "pressure_io_waiting_seconds_total" [] "Time during which a process waited for I/O, in seconds.";
    PRESSURE_IO_STALLED Counter "pressure_io_stalled_seconds_total" [] "Time during which all processes waited for I/O, in seconds.";
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use super::*;

    #[test]
    fn descriptors_are_distinct_and_complete() {
        let all = all();
        let names: BTreeSet<_> = all.iter().map(|descriptor| descriptor.name.as_str()).collect();
        assert_eq!((names.len(), all.len()), (58, 58), "the 56 of critest, and two of containerd");
        for descriptor in &all {
            assert!(descriptor.name.starts_with("container_") && !descriptor.help.is_empty());
            assert_eq!(descriptor.label_keys[..BASE.len()], BASE);
            let keys: BTreeSet<_> = descriptor.label_keys.iter().collect();
            assert_eq!(keys.len(), descriptor.label_keys.len(), "{descriptor:?}");
        }
    }
}
