//! An allocator that forgets: what is freed is zeros.

use std::alloc::{GlobalAlloc, Layout, System};

/// The system's allocator, but memory is zeroed before it goes back.
///
/// For a program that forks copies of itself into containers: what it has read for one of them, and freed, is not in the
/// memory of the copy that enters the next.
#[derive(Debug)]
pub struct Wiping;

// SAFETY: every call is passed on to `System` with its own arguments; `realloc` is the default one, which allocates,
// copies and deallocates through these two, so that what a growing vector leaves behind is wiped too.
unsafe impl GlobalAlloc for Wiping {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, memory: *mut u8, layout: Layout) {
        // SAFETY: the caller gives up this very block, which is `layout.size()` long. Unlike a plain write this one is
        // not removed for being the last.
        unsafe {
            libc::explicit_bzero(memory.cast(), layout.size());
            System.dealloc(memory, layout);
        }
    }
}
