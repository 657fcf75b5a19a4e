//! Gives memory of this process back to the kernel: pages of code and of the allocator.

// SAFETY: the linker defines both symbols in every executable; only their addresses are used.
unsafe extern "C" {
    static __executable_start: u8;
    static etext: u8;
}

/// Unmaps the pages of this program's code and constants; pages that are used again come back from the page cache. For
/// a process about to sleep for long: each page fault maps sixteen pages, most of them unused.
pub fn unmap_code() {
    let (start, end) = ((&raw const __executable_start).addr(), (&raw const etext).addr());
    const PAGE: usize = 4096;
    // Whole pages below the end of the code: the page after it may be writable. With pages larger than 4 KiB the call
    // may be refused, which is harmless.
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if end > start {
        // SAFETY: the range is the executable's own, mapped read-only from its file: dropped pages are read from there
        // again, with the same contents.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Makes the allocator keep little freed memory, for a process that lives long and works seldom: two arenas for all
/// threads, and blocks of 128 KiB and more in mappings of their own, which are unmapped when they are freed. (By
/// default glibc raises that size to as much as 32 MiB when a large block is freed.)
pub fn limit_allocator_cache() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_TRIM_THRESHOLD, 128 << 10)]
    {
        // SAFETY: sets a number inside the allocator, which takes its own lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Returns the free pages of all arenas to the kernel. malloc_trim(3)
pub fn trim_allocator() {
    // SAFETY: the allocator takes its own locks; memory in use does not move.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_continues_after_its_code_was_unmapped() {
        super::unmap_code();
        assert_eq!("still".repeat(2), "stillstill");
    }
}
