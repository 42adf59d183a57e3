//! stub

mod host;
pub use host::Host;
