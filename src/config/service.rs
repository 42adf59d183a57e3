//! What a service manager tells a service by its environment: systemd's sd_notify(3), sd_watchdog_enabled(3) and
//! sd_listen_fds(3), which others speak too, and where its journal listens (systemd.exec(5), `JOURNAL_STREAM`).

use std::collections::HashMap;
use std::ffi::OsString;
use std::time::Duration;

/// Variables that are for this process alone.
const VARIABLES: [&str; 8] = [
    "NOTIFY_SOCKET",
    "WATCHDOG_USEC",
    "WATCHDOG_PID",
    "LISTEN_PID",
    "LISTEN_PIDFDID",
    "LISTEN_FDS",
    "LISTEN_FDNAMES",
    "JOURNAL_STREAM",
];

/// What the service manager has told.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Service {
    /// Where it wants to be told how the service is: a path, or a name in the abstract namespace behind an `@`.
    pub notify: Option<String>,
    /// It ends a service that says nothing for this long.
    pub watchdog: Option<Duration>,
    /// Number of listening sockets it has handed over, as descriptors from 3 on.
    pub sockets: usize,
    /// Device and inode of the stream that leads to its journal. Inherited by whoever runs below a service, so it holds
    /// only for a stream that is this one.
    pub journal: Option<(u64, u64)>,
}

impl Service {
    /// Takes it out of an environment: an engine that saw it would speak for vllama. `pid` is this process: what is
    /// meant for another one is not for us.
    pub(super) fn take(environment: &mut HashMap<String, String>, pid: u32) -> Self {
        let mut told: HashMap<&str, String> = HashMap::new();
        for name in VARIABLES {
            if let Some(value) = environment.remove(name) {
                told.insert(name, value);
            }
        }
        let number = |name: &str| told.get(name).and_then(|value| value.trim().parse::<u64>().ok());
        let is_us = |name: &str| number(name) == Some(pid.into());
        let watched = !told.contains_key("WATCHDOG_PID") || is_us("WATCHDOG_PID");
        let watchdog = number("WATCHDOG_USEC").filter(|time| watched && *time > 0).map(Duration::from_micros);
        let sockets = number("LISTEN_FDS").filter(|_| is_us("LISTEN_PID")).unwrap_or_default();
        Self {
            journal: told.get("JOURNAL_STREAM").and_then(|stream| device_and_inode(stream)),
            notify: told.get("NOTIFY_SOCKET").filter(|socket| !socket.is_empty()).cloned(),
            watchdog,
            // More than a process can have is a mistake that opening them will tell.
            sockets: usize::try_from(sockets).unwrap_or(usize::MAX),
        }
    }
}

/// What [`Service::journal`] will be, for who cannot wait for the whole configuration.
#[must_use]
pub fn journal(environment: &[(OsString, OsString)]) -> Option<(u64, u64)> {
    let (_, stream) = environment.iter().find(|(name, _)| name == "JOURNAL_STREAM")?;
    device_and_inode(stream.to_str()?)
}

fn device_and_inode(stream: &str) -> Option<(u64, u64)> {
    let (device, inode) = stream.split_once(':')?;
    Some((device.parse().ok()?, inode.parse().ok()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn taken(variables: &[(&str, &str)]) -> (Service, Vec<String>) {
        let variables = variables.iter().map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        let mut environment: HashMap<_, _> = variables.collect();
        let service = Service::take(&mut environment, 7);
        (service, environment.into_keys().collect())
    }

    #[test]
    fn what_is_meant_for_this_process_is_taken_and_nothing_of_it_is_left_for_engines() {
        let (service, left) = taken(&[
            ("NOTIFY_SOCKET", "/run/systemd/notify"),
            ("WATCHDOG_USEC", "30000000"),
            ("WATCHDOG_PID", "7"),
            ("LISTEN_FDS", "2"),
            ("LISTEN_PID", "7"),
            ("LISTEN_FDNAMES", "a:b"),
            ("JOURNAL_STREAM", "8:1234"),
            ("HOME", "/root"),
        ]);
        let (notify, watchdog) = (Some("/run/systemd/notify".to_owned()), Some(Duration::from_secs(30)));
        assert_eq!(service, Service { notify, watchdog, sockets: 2, journal: Some((8, 1234)) });
        assert_eq!(left, ["HOME"]);
    }

    #[test]
    fn what_is_meant_for_another_process_or_makes_no_sense_counts_for_nothing() {
        for variables in [
            &[("LISTEN_FDS", "2"), ("LISTEN_PID", "8")][..],
            &[("LISTEN_FDS", "2")],
            &[("LISTEN_FDS", "many"), ("LISTEN_PID", "7")],
            &[("WATCHDOG_USEC", "30000000"), ("WATCHDOG_PID", "8")],
            &[("WATCHDOG_USEC", "0")],
            &[("NOTIFY_SOCKET", "")],
            &[("JOURNAL_STREAM", "8")],
        ] {
            assert_eq!(taken(variables), (Service::default(), Vec::new()), "{variables:?}");
        }
        assert_eq!(taken(&[("WATCHDOG_USEC", "1000000")]).0.watchdog, Some(Duration::from_secs(1)));
    }
}
