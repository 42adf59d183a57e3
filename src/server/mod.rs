//! stub
use std::sync::Arc;
/// x
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Phase {
    /// x
    Serving,
    /// x
    Draining,
    /// x
    Closed,
}
/// x
#[derive(Default)]
pub struct Settings {
    /// x
    pub body_limit: usize,
    /// x
    pub max_connections: usize,
    /// x
    pub origins: Vec<String>,
}
/// x
pub async fn serve(
    _l: tokio::net::TcpListener,
    _a: Arc<crate::api::App>,
    _s: Settings,
    mut p: tokio::sync::watch::Receiver<Phase>,
) {
    let _ = p.wait_for(|p| *p != Phase::Serving).await;
}
