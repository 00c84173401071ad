//! The harness's own memory.

/// Gives back to the system what was freed. Left alone, each thread's allocator keeps what the largest trial on it took, and
/// with each program that is started the page tables of all of it are copied.
pub fn give_back() {
    // SAFETY: it only looks at what the allocator has free, under the allocator's own locks.
    #[cfg(target_env = "gnu")]
    unsafe {
        libc::malloc_trim(0);
    }
}
