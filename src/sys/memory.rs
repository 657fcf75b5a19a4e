//! This program's own memory: its code, and what its allocator keeps.

// SAFETY: the linker defines both symbols in every executable; only their addresses are used.
unsafe extern "C" {
    static __executable_start: u8;
    static etext: u8;
}

/// Unmaps the pages of this program's code and constants; those that are used again come back from the page cache. For a
/// process that is about to sleep for long: the kernel maps sixteen pages for each that is touched.
pub fn unmap_code() {
    let (start, end) = ((&raw const __executable_start).addr(), (&raw const etext).addr());
    const PAGE: usize = 4096;
    // Whole pages below the end of the code: what follows it may be written to. With larger pages the call is refused.
    let (start, end) = (start.next_multiple_of(PAGE), end / PAGE * PAGE);
    if end > start {
        // SAFETY: the range is the executable's own, mapped read-only from its file: dropped pages are read from there
        // again, with the same contents.
        unsafe { libc::madvise(start as *mut libc::c_void, end - start, libc::MADV_DONTNEED) };
    }
}

/// Has the allocator keep little of what is freed, for a process that lives long and works seldom: two arenas for all
/// threads, blocks of 128 KiB and more in mappings of their own, which go back when they are freed. (By itself it raises
/// that size to 32 MiB with the first large block that is freed.)
pub fn keep_little() {
    #[cfg(target_env = "gnu")]
    for (parameter, value) in
        [(libc::M_ARENA_MAX, 2), (libc::M_MMAP_THRESHOLD, 128 << 10), (libc::M_TRIM_THRESHOLD, 128 << 10)]
    {
        // SAFETY: sets a number inside the allocator, which takes its own lock.
        unsafe { libc::mallopt(parameter, value) };
    }
}

/// Gives the pages that the allocator holds free back to the system, in all arenas. malloc_trim(3)
pub fn give_back() {
    // SAFETY: the allocator takes its own locks; what is in use stays where it is.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_goes_on_without_its_code_mapped() {
        super::unmap_code();
        assert_eq!("still".repeat(2), "stillstill");
    }
}
