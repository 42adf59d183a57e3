//! The guard against pages that make a name of theirs point to this machine (ollama-api §8.2).

use std::net::IpAddr;

/// Endings of names that never leave a machine or its network.
const PRIVATE_ENDINGS: [&str; 3] = [".localhost", ".local", ".internal"];

/// Whether a request with this `Host` may be answered by a server that listens on a loopback address only. `hostname` is
/// this machine's name.
pub fn is_ours(host: &str, hostname: Option<&str>) -> bool {
    let name = without_port(host).to_ascii_lowercase();
    if let Ok(address) = name.trim_matches(['[', ']']).parse::<IpAddr>() {
        return match address {
            IpAddr::V4(v4) => v4.is_loopback() || v4.is_private() || v4.is_unspecified() || v4.is_link_local(),
            IpAddr::V6(v6) => v6.is_loopback() || v6.is_unspecified() || v6.is_unique_local(),
        };
    }
    name.is_empty()
        || name == "localhost"
        || hostname.is_some_and(|hostname| name.eq_ignore_ascii_case(hostname))
        || PRIVATE_ENDINGS.iter().any(|ending| name.ends_with(ending))
}

fn without_port(host: &str) -> &str {
    match host.rsplit_once(':') {
        // An IPv6 address without a port has colons of its own.
        Some((name, port)) if port.bytes().all(|byte| byte.is_ascii_digit()) && !name.ends_with(':') => {
            if name.contains(':') && !name.starts_with('[') { host } else { name }
        }
        _ => host,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_names_of_this_machine_and_its_network_are_ours() {
        for (host, ours) in [
            ("localhost:11434", true),
            ("LOCALHOST", true),
            ("127.0.0.1:11434", true),
            ("127.0.0.1", true),
            ("[::1]:11434", true),
            ("[::1]", true),
            ("192.168.1.5:11434", true),
            ("0.0.0.0:11434", true),
            ("box:11434", true),
            ("app.localhost", true),
            ("printer.local:80", true),
            ("host.docker.internal:11434", true),
            ("", true),
            ("8.8.8.8", false),
            ("evil.example", false),
            ("evil.example:11434", false),
            ("localhost.evil.example", false),
            ("otherbox", false),
        ] {
            assert_eq!(is_ours(host, Some("box")), ours, "{host}");
        }
    }
}
