//! What the hardware has and what is free.
//!
//! In: the lines of the helper program `vllama-gpu`, kept running by [`Watch`]. Out: the latest [`Reading`], or nothing:
//! unknown is a normal answer.
//!
//! Must not know: models, engines, HTTP, NVML. The driver is asked in a process of its own, because a call into a wedged
//! driver may never return and because the static `vllama` cannot load the driver's library.

mod host;
mod memory_kills;
mod reading;
mod watch;

pub use host::Host;
pub use memory_kills::MemoryKills;
pub use reading::{Gpu, Process, Reading};
pub use watch::{Pace, Watch};
