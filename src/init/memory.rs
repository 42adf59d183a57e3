//! What the allocator keeps of memory that is not used any more.

use super::sys;

/// Gives memory that has been freed back to the kernel. The C library's allocator does that by itself only for what lies at
/// the end of each of its heaps, and one small object that lives on keeps all that lies before it. Takes some milliseconds
/// for hundreds of megabytes, in which other threads may wait for memory.
pub fn give_back_memory() {
    sys::trim_heaps();
}
