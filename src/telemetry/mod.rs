//! How vllama says what it is doing: logs, health, metrics and the facts of each request.
//!
//! In: snapshots of the scheduler and what a request found out about itself. Out: log lines on standard error, the JSON of
//! `/health` and the page of `/metrics`. Knows no HTTP and no dialect, and decides nothing.

pub mod facts;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod queue;
pub mod timestamp;

pub use facts::Facts;
pub use health::Health;
pub use metrics::Metrics;
pub use queue::Queue;
pub use timestamp::Timestamp;
