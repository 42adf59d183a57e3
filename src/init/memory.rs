//! What the allocator keeps of memory that is not used any more.

use super::sys;

/// Gives memory that has been freed back to the kernel. The C library's allocator does that by itself only for what lies at
/// the end of each of its heaps, and one small object that lives on keeps all that lies before it. Takes some milliseconds
/// for hundreds of megabytes, in which other threads may wait for memory.
pub fn give_back_memory() {
    sys::trim_heaps();
}

/// Keeps the ends of the heaps for what comes next: buffers that come and go with each request would else be given back to
/// the kernel and taken again, page by page. For a server, before it serves.
pub fn keep_memory_at_hand() {
    sys::keep_heap_ends(8 << 20, 1 << 20);
}
