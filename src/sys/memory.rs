//! madvise(2) on this program's own code.

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

#[cfg(test)]
mod tests {
    #[test]
    fn the_program_goes_on_without_its_code_mapped() {
        super::unmap_code();
        assert_eq!("still".repeat(2), "stillstill");
    }
}
