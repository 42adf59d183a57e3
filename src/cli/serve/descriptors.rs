//! How the descriptors that the kernel allows are divided up, so that vllama's own work never lacks one (issue 5).

use nix::sys::resource::{Resource, getrlimit};

use crate::engine;

/// Kept for vllama's own work: ports, epoll, logs, locks, pipes of engines and of Python, what it reads of `/proc`, and
/// those in the lobby.
const OWN: u64 = 320;

/// The part of that which is for the lobby.
const LOBBY: u64 = 5;

/// Who may have how many descriptors.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Shares {
    /// Connections of clients.
    pub connections: usize,
    /// Connections without a place.
    pub lobby: usize,
    /// Requests, each with a descriptor beside its connection.
    pub requests: usize,
}

impl Shares {
    /// Of this process, whose limit does not change any more.
    pub(super) fn of_this_process(wanted: usize) -> Self {
        // A limit that cannot be read is no reason not to serve; every Linux has this many.
        let (descriptors, _) = getrlimit(Resource::RLIMIT_NOFILE).unwrap_or((1024, 1024));
        let shares = Self::of(descriptors, wanted);
        if shares.connections < wanted {
            tracing::warn!(
                descriptors,
                "no more than {} connections at a time instead of {wanted}, as only so many files may be open; raise the \
                 limit (`ulimit -n`, `--ulimit nofile=`, in a unit `LimitNOFILE=`), or lower --max-connections",
                shares.connections
            );
        }
        shares
    }

    /// Of so many descriptors, for an operator who wants at most so many connections.
    fn of(descriptors: u64, wanted: usize) -> Self {
        let own = OWN.min(descriptors / 3);
        let kept = engine::kept_connections(descriptors) as u64;
        let free = descriptors - own - kept;
        // Without a place nobody could ever be answered.
        let wanted = wanted.max(1) as u64;
        // Where there are enough, every connection may have a request; else some only rest.
        let connections = if free / 2 >= wanted { wanted } else { wanted.min(free / 3 * 2) };
        let size = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).max(1);
        Self { connections: size(connections), lobby: size(own / LOBBY), requests: size(free - connections) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn own_work_has_its_descriptors_whatever_is_wanted() {
        for descriptors in [0, 1, 10, 64, 256, 1024, 4096, 20_000, 65_536, 1 << 20, u64::MAX] {
            for wanted in [0, 1, 100, 4096, 12_000, usize::MAX] {
                let Shares { connections, requests, .. } = Shares::of(descriptors, wanted);
                assert!(connections >= 1 && requests >= 1 && connections <= wanted.max(1), "{descriptors} {wanted}");
                if descriptors < 64 {
                    continue;
                }
                let kept = engine::kept_connections(descriptors) as u64;
                let left = descriptors - connections as u64 - requests as u64 - kept;
                assert!(left >= OWN.min(descriptors / 3), "{descriptors} {wanted}: {left}");
            }
        }
    }

    #[test]
    fn the_usual_limits_leave_the_usual_number_of_connections() {
        assert_eq!(Shares::of(1 << 20, 4096).connections, 4096);
        assert_eq!(Shares::of(20_000, 12_000), Shares { connections: 12_000, lobby: 64, requests: 7_424 });
        assert_eq!(Shares::of(1024, 4096), Shares { connections: 384, lobby: 64, requests: 192 });
        assert_eq!(Shares::of(256, 4096), Shares { connections: 92, lobby: 17, requests: 47 });
    }
}
