//! How vllama says what it is doing: logs, health, metrics, traces and the facts of each request.
//!
//! In: snapshots of the scheduler and what a request found out about itself. Out: log lines on standard error, the JSON of
//! `/health`, the page of `/metrics`, and spans for a collector. Serves no HTTP, knows no dialect, and decides nothing.

pub mod facts;
pub mod health;
pub mod logs;
pub mod metrics;
pub mod queue;
pub mod timestamp;
pub mod traces;

pub use facts::Facts;
pub use health::Health;
pub use metrics::Metrics;
pub use queue::Queue;
pub use timestamp::Timestamp;
pub use traces::Tracer;
