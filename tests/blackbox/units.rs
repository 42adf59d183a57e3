//! The units in `systemd/`, as systemd reads them.

use std::path::Path;
use std::process::Command;

/// The service's text.
fn service() -> String {
    std::fs::read_to_string(Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/vllama.service")).expect("the unit")
}

/// The value of a setting of the service.
fn setting(name: &str) -> String {
    let unit = service();
    let value = unit.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='));
    value.unwrap_or_else(|| panic!("{name} in the unit")).to_owned()
}

/// Runs `systemd-analyze` on copies of the units that name a program which is there; `None` where there is no systemd.
fn analyze(arguments: &[&str], units: &[&str]) -> Option<std::process::Output> {
    let directory = tempfile::tempdir().expect("a directory");
    let socket = Path::new(env!("CARGO_MANIFEST_DIR")).join("systemd/vllama.socket");
    std::fs::copy(socket, directory.path().join("vllama.socket")).expect("a copy");
    let text = service().replace("/usr/local/bin/vllama", "/bin/true");
    std::fs::write(directory.path().join("vllama.service"), text).expect("a copy");
    let units: Vec<_> = units.iter().map(|unit| directory.path().join(unit)).collect();
    let output = Command::new("systemd-analyze").args(arguments).args(units).output();
    match output {
        Ok(output) => Some(output),
        Err(error) => {
            println!("skipped: systemd-analyze {}: {error}", arguments.join(" "));
            None
        }
    }
}

#[test]
fn systemd_finds_nothing_wrong_with_the_units() {
    let Some(output) = analyze(&["verify", "--man=no"], &["vllama.service", "vllama.socket"]) else { return };
    let said = String::from_utf8_lossy(&output.stderr);
    assert!(output.status.success() && said.is_empty(), "{}: {said}", output.status);
}

#[test]
fn the_service_is_exposed_to_no_more_than_3_of_10() {
    let Some(output) = analyze(&["security", "--offline=true", "--threshold=30"], &["vllama.service"]) else { return };
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stdout));
}

#[test]
fn the_service_may_take_longer_to_stop_than_a_drain_and_the_end_of_an_engine() {
    let seconds: u64 = setting("TimeoutStopSec").parse().expect("seconds");
    let default = |flag: &str| -> u64 {
        let setting = vllama::config::SETTINGS.iter().find(|setting| setting.flag == flag).expect("a setting");
        setting.default.trim_end_matches('s').parse().expect("seconds")
    };
    assert!(seconds >= default("drain") + default("stop-timeout") + 20, "{seconds}");
}

#[test]
fn vllama_ends_its_engines_itself_and_tells_when_it_is_ready() {
    assert_eq!((setting("KillMode").as_str(), setting("Type").as_str()), ("mixed", "notify"));
}
