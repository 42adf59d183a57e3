//! `vllama init -- CMD…` from outside: exit codes, signals, orphans, terminals; as PID 1 and as subreaper.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/init/mod.rs"]
mod support;

use std::io::{BufRead, BufReader, Read, Write};
use std::process::{Child, ChildStdout, Command, Output, Stdio};
use std::sync::LazyLock;
use std::time::{Duration, Instant};

use support::{children, look, wait_for, wait_until, zombies};

const VLLAMA: &str = env!("CARGO_BIN_EXE_vllama");

/// Longest time an orphan may be a zombie.
const ZOMBIE: Duration = Duration::from_millis(100);

/// `vllama init -- command…`.
fn init(command: &[&str]) -> Command {
    let mut init = Command::new(VLLAMA);
    init.args(["init", "--"]).args(command);
    init
}

/// The same as PID 1 of a namespace of its own; `None`, and the reason told, where that is not permitted.
fn init_as_pid_1(command: &[&str]) -> Option<Command> {
    static REFUSED: LazyLock<Option<String>> =
        LazyLock::new(|| match Command::new("unshare").args(["--pid", "--fork", "--mount-proc", "true"]).output() {
            Ok(output) if output.status.success() => None,
            Ok(output) => Some(String::from_utf8_lossy(&output.stderr).trim().to_owned()),
            Err(error) => Some(format!("unshare: {error}")),
        });
    if let Some(why) = &*REFUSED {
        skip(&format!("no real PID 1 here: {why}"));
        return None;
    }
    let mut init = Command::new("unshare");
    init.args(["--pid", "--fork", "--mount-proc", "--kill-child", VLLAMA, "init", "--"]).args(command);
    Some(init)
}

/// Says that a test could not be made and why; past the harness, which hides what fine tests print. `tests/run` counts.
fn skip(why: &str) {
    let _ = writeln!(std::io::stderr(), "skipped: {why}");
}

fn code(mut command: Command) -> i32 {
    let mut process = command.stdin(Stdio::null()).spawn().unwrap();
    wait_for("the init has ended", || process.try_wait().unwrap()).code().unwrap()
}

fn output(mut command: Command) -> Output {
    command.stdin(Stdio::null()).output().unwrap()
}

/// An init whose command has printed "ready".
struct Running {
    process: Child,
    output: BufReader<ChildStdout>,
}

impl Running {
    fn start(mut command: Command) -> Self {
        let mut process = command.stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
        let output = BufReader::new(process.stdout.take().unwrap());
        let mut running = Self { process, output };
        assert_eq!(running.line(), "ready");
        running
    }

    fn pid(&self) -> i32 {
        self.process.id().cast_signed()
    }

    fn line(&mut self) -> String {
        let mut line = String::new();
        self.output.read_line(&mut line).unwrap();
        line.trim_end().to_owned()
    }

    /// Sends a signal by number: the nix enum knows no real-time signals.
    fn signal(&self, number: i32) {
        signal(self.pid(), number);
    }

    fn code(mut self) -> i32 {
        let status = wait_for("the init has ended", || self.process.try_wait().unwrap());
        status.code().unwrap_or_else(|| panic!("the init itself was killed: {status}"))
    }
}

fn signal(pid: i32, number: i32) {
    let sent = Command::new("kill").args([format!("-{number}"), pid.to_string()]).status().unwrap();
    assert!(sent.success());
}

/// All signals a program can catch, but for SIGCHLD, which is the init's own; real-time signals included.
fn catchable() -> impl Iterator<Item = i32> {
    (1..=64).filter(|number| ![libc::SIGKILL, libc::SIGSTOP, libc::SIGCHLD, 32, 33].contains(number))
}

#[test]
fn every_exit_code_is_handed_on() {
    for expected in 0..=255 {
        assert_eq!(code(init(&["sh", "-c", &format!("exit {expected}")])), expected);
    }
}

#[test]
fn exit_codes_are_handed_on_by_pid_1() {
    for expected in [0, 1, 77, 126, 127, 128, 137, 255] {
        let Some(command) = init_as_pid_1(&["sh", "-c", &format!("exit {expected}")]) else {
            return;
        };
        assert_eq!(code(command), expected);
    }
}

#[test]
fn death_by_a_signal_is_128_and_its_number() {
    for number in (1..=64).filter(|number| ![32, 33].contains(number)) {
        // These do not kill by default.
        let harmless = [libc::SIGCHLD, libc::SIGCONT, libc::SIGURG, libc::SIGWINCH];
        let stopping = [libc::SIGSTOP, libc::SIGTSTP, libc::SIGTTIN, libc::SIGTTOU];
        if !harmless.contains(&number) && !stopping.contains(&number) {
            assert_eq!(code(init(&["sh", "-c", &format!("kill -{number} $$; exit 3")])), 128 + number, "{number}");
        }
    }
}

/// Prints each signal it gets; ends with 7 after "ready", one signal.
const CATCH: &str = r#"
    use POSIX; $| = 1; my $number = shift; my $got = 0;
    POSIX::sigaction($number, POSIX::SigAction->new(sub { $got = 1 })) or die "sigaction: $!";
    print "ready\n";
    select(undef, undef, undef, 0.01) until $got;
    print "got $number\n"; exit 7;
"#;

#[test]
fn every_signal_is_passed_on() {
    for number in catchable() {
        let mut running = Running::start(init(&["perl", "-e", CATCH, &number.to_string()]));
        running.signal(number);
        assert_eq!(running.line(), format!("got {number}"));
        assert_eq!(running.code(), 7);
    }
}

#[test]
fn every_signal_is_passed_on_by_pid_1() {
    for number in catchable() {
        let Some(command) = init_as_pid_1(&["perl", "-e", CATCH, &number.to_string()]) else {
            return;
        };
        let mut running = Running::start(command);
        // From outside the namespace, as `docker kill` sends it.
        signal(children(running.pid())[0].pid, number);
        assert_eq!(running.line(), format!("got {number}"));
        assert_eq!(running.code(), 7);
    }
}

#[test]
fn signals_go_to_the_command_and_not_to_its_children() {
    let text = "sh -c 'trap \"echo child\" TERM; echo ready; while :; do sleep 0.01; done' & \
                trap 'echo command; kill -9 $!; exit 4' TERM; while :; do sleep 0.01; done";
    let mut running = Running::start(init(&["sh", "-c", text]));
    running.signal(libc::SIGTERM);
    assert_eq!(running.line(), "command");
    assert_eq!(running.code(), 4);
}

#[test]
fn a_stopped_command_does_not_end_the_init_and_goes_on_when_continued() {
    let mut running = Running::start(init(&["sh", "-c", "echo ready; read line; echo $line; exit 5"]));
    let command = children(running.pid())[0].pid;
    for stop in [libc::SIGSTOP, libc::SIGTSTP] {
        signal(command, stop);
        wait_until("the command is stopped", || look(command).unwrap().state == 'T');
        // A reaper that takes a stop for an end would end on this wake-up.
        signal(running.pid(), libc::SIGCHLD);
        running.signal(libc::SIGCONT);
        wait_until("the command goes on", || look(command).unwrap().state != 'T');
        assert!(running.process.try_wait().unwrap().is_none());
    }
    running.process.stdin.take().unwrap().write_all(b"continued\n").unwrap();
    assert_eq!(running.line(), "continued");
    assert_eq!(running.code(), 5);
}

#[test]
fn streams_directory_and_environment_are_handed_on() {
    let directory = tempfile::tempdir().unwrap();
    let mut command = init(&["sh", "-c", "cat; echo error >&2; pwd -P; echo $GREETING $LISTEN_PID; umask"]);
    command.current_dir(&directory).env("GREETING", "hello").env("LISTEN_PID", "1").stdin(Stdio::piped());
    let mut process = command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(&[b'x'; 100_000]).unwrap();
    let output = process.wait_with_output().unwrap();
    let text = String::from_utf8(output.stdout).unwrap();
    let (text, rest) = text.split_at(100_000);
    assert!(text.bytes().all(|byte| byte == b'x'));
    let place = directory.path().canonicalize().unwrap();
    let umask = Command::new("sh").args(["-c", "umask"]).output().unwrap().stdout;
    // This LISTEN_PID was for somebody else.
    assert_eq!(rest, format!("{}\nhello 1\n{}", place.display(), String::from_utf8(umask).unwrap()));
    assert_eq!(output.stderr, b"error\n");
}

#[test]
fn sockets_from_systemd_are_for_the_command() {
    // exec keeps the pid, so this is the init's own.
    let text = format!(
        "LISTEN_FDS=1 LISTEN_PID=$$ exec {VLLAMA} init -- sh -c 'echo $$ $LISTEN_PID; read x <&3; echo $x' 3<&0"
    );
    let mut process = Command::new("sh");
    let mut process = process.args(["-c", &text]).stdin(Stdio::piped()).stdout(Stdio::piped()).spawn().unwrap();
    process.stdin.take().unwrap().write_all(b"descriptor 3\n").unwrap();
    let text = String::from_utf8(process.wait_with_output().unwrap().stdout).unwrap();
    let (first, rest) = text.split_once('\n').unwrap();
    let (own, told) = first.split_once(' ').unwrap();
    assert_eq!(own, told);
    assert_eq!(rest, "descriptor 3\n");
}

#[test]
fn the_command_gets_the_signals_we_were_given_and_a_group_of_its_own() {
    let text =
        "while read -r line; do echo \"$line\"; done < /proc/$$/status; read -r stat < /proc/$$/stat; echo $$ $stat";
    let told = |command| String::from_utf8(output(command).stdout).unwrap();
    let mut direct = Command::new("sh");
    direct.args(["-c", text]);
    let (text, direct) = (told(init(&["sh", "-c", text])), told(direct));
    for name in ["SigBlk", "SigIgn", "SigPnd", "Groups", "Seccomp"] {
        let line = |text: &str| text.lines().find(|line| line.starts_with(name)).map(str::to_owned);
        assert_eq!(line(&text), line(&direct), "as without the init");
    }
    let last: Vec<&str> = text.lines().next_back().unwrap().split(' ').collect();
    assert_eq!(last[0], last[5], "leads its group");
    assert_ne!(last[0], last[6], "does not lead a session");
}

#[test]
fn an_ignored_sigchld_from_whoever_started_us_loses_no_status() {
    let mut command = Command::new("perl");
    command.args(["-e", "$SIG{CHLD} = 'IGNORE'; exec @ARGV", VLLAMA, "init", "--", "sh", "-c", "exit 9"]);
    assert_eq!(code(command), 9);
}

#[test]
fn what_nohup_ignores_stays_ignored() {
    let mut command = Command::new("perl");
    let text = "kill -1 $$; exit 9";
    command.args(["-e", "$SIG{HUP} = 'IGNORE'; exec @ARGV", VLLAMA, "init", "--", "sh", "-c", text]);
    assert_eq!(code(command), 9);
}

#[test]
fn what_cannot_be_run_is_126_or_127_and_told() {
    let directory = tempfile::tempdir().unwrap();
    let file = |name: &str, text: &str, mode| {
        let path = directory.path().join(name);
        std::fs::write(&path, text).unwrap();
        std::fs::set_permissions(&path, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
        path.to_str().unwrap().to_owned()
    };
    let forbidden = file("forbidden", "#!/bin/sh\n", 0o600);
    let garbage = file("garbage", "no program", 0o700);
    let no_interpreter = file("no-interpreter", "#!/nowhere\n", 0o700);
    for (program, expected) in [
        ("/nowhere/to/be/found", 127),
        ("not-in-the-path", 127),
        ("", 127),
        (&no_interpreter, 127),
        (&forbidden, 126),
        (&garbage, 126),
        ("/", 126),
    ] {
        let output = output(init(&[program]));
        assert_eq!(output.status.code(), Some(expected), "{program}");
        assert!(output.stdout.is_empty());
        let text = String::from_utf8(output.stderr).unwrap();
        assert!(text.starts_with("vllama init: ") && text.contains(program), "{text}");
        assert_eq!(text.lines().count(), 1, "{text}");
    }
    assert_eq!(code(init(&[])), 2);
}

#[test]
fn signals_during_the_start_harm_nothing() {
    for _ in 0..40 {
        let mut command = init(&["sh", "-c", "(true &); exit 3"]);
        let mut process = command.stdin(Stdio::null()).spawn().unwrap();
        let pid = nix::unistd::Pid::from_raw(process.id().cast_signed());
        // Ignored by default, so harmless before we are ready; blocked, taken and passed on after.
        let status = loop {
            for harmless in [nix::sys::signal::SIGWINCH, nix::sys::signal::SIGURG, nix::sys::signal::SIGCHLD] {
                nix::sys::signal::kill(pid, harmless).unwrap();
            }
            if let Some(status) = process.try_wait().unwrap() {
                break status;
            }
        };
        assert_eq!(status.code(), Some(3));
    }
}

#[test]
fn the_children_of_a_parent_that_never_waits_are_reaped_after_its_end() {
    // The parent leaves five zombies; when it ends they come to the init, while the command goes on.
    let text = "sh -c 'true & true & true & true & true & exec sleep 0.2'; echo ready; read line; exit 6";
    let mut running = Running::start(init(&["sh", "-c", text]));
    wait_until("no zombie is left", || zombies(running.pid()).is_empty());
    assert_eq!(children(running.pid()).len(), 1);
    drop(running.process.stdin.take());
    assert_eq!(running.code(), 6);
}

/// Makes 400 × 25 orphans. Those of one round wait until their parent has ended, so that they are the init's children
/// when they end, all at once.
const ORPHANS: &str = r#"
    $| = 1; print "ready\n";
    for (1..400) {
        pipe(my $reader, my $writer) or die "pipe: $!";
        my $parent = fork; defined $parent or die "fork: $!";
        if (!$parent) {
            $parent = $$;
            for (1..25) {
                my $orphan = fork; defined $orphan or die "fork: $!";
                if (!$orphan) {
                    close $writer; sysread $reader, my $nothing, 1;
                    # The pipe closes a moment before the orphan changes hands.
                    select(undef, undef, undef, 0.001) while getppid() == $parent;
                    syswrite STDOUT, getppid() . "\n"; exit;
                }
            }
            exit;
        }
        close $writer; waitpid $parent, 0; $? == 0 or die "parent: $?";
    }
    <STDIN>; exit 8;
"#;

/// Watches the children of a process until `over`; returns the longest time one was seen as a zombie, from the end of
/// the first look that showed it to the beginning of the last, and by how much the watcher itself was woken too late:
/// on a busy machine the init cannot be quicker than that.
fn longest_zombie(parent: i32, mut over: impl FnMut() -> bool) -> (Duration, Duration) {
    let nap = Duration::from_millis(1);
    let mut first_seen = std::collections::HashMap::new();
    let (mut longest, mut late) = (Duration::ZERO, Duration::ZERO);
    while !over() {
        let begin = Instant::now();
        let now = zombies(parent);
        let end = Instant::now();
        first_seen.retain(|pid, _| now.contains(pid));
        for pid in now {
            longest = longest.max(begin.saturating_duration_since(*first_seen.entry(pid).or_insert(end)));
        }
        let asleep = Instant::now();
        std::thread::sleep(nap);
        late = late.max(asleep.elapsed().saturating_sub(nap));
    }
    (longest, late)
}

fn ten_thousand_orphans(command: Command, find_init: impl Fn(i32) -> i32, told: impl Fn(i32) -> i32) {
    let Running { mut process, mut output } = Running::start(command);
    let pid = find_init(process.id().cast_signed());
    let expected = told(pid).to_string();
    let reader = std::thread::spawn(move || {
        let mut line = String::new();
        for _ in 0..10_000 {
            line.clear();
            output.read_line(&mut line).unwrap();
            assert_eq!(line.trim_end(), expected, "an orphan has another parent");
        }
    });
    let (longest, late) = longest_zombie(pid, || reader.is_finished() && children(pid).len() == 1);
    reader.join().unwrap();
    println!("longest zombie: {longest:?}; the watcher was late by {late:?}");
    assert!(longest < ZOMBIE + late, "an orphan was a zombie for {longest:?}");
    assert!(process.try_wait().unwrap().is_none());
    drop(process.stdin.take());
    assert_eq!(process.wait().unwrap().code(), Some(8));
}

#[test]
fn ten_thousand_orphans_are_reaped_at_once_by_a_subreaper() {
    ten_thousand_orphans(init(&["perl", "-e", ORPHANS]), |pid| pid, |pid| pid);
}

#[test]
fn ten_thousand_orphans_are_reaped_at_once_by_pid_1() {
    let Some(command) = init_as_pid_1(&["perl", "-e", ORPHANS]) else {
        return;
    };
    ten_thousand_orphans(command, |unshare| children(unshare)[0].pid, |_| 1);
}

/// A terminal with `sh -c text` on it, fed with input line by line as prompts appear; `None` without `script`.
fn on_a_terminal(text: &str, dialogue: &[(&str, &[u8])]) -> Option<String> {
    // The reads below have no deadline of their own.
    let mut command = Command::new("timeout");
    command.args(["--foreground", "60", "script", "-q", "-e", "-c", text, "/dev/null"]);
    command.stdin(Stdio::piped()).stdout(Stdio::piped());
    if Command::new("script").arg("--version").output().is_err() {
        skip("no terminal here: script is not installed");
        return None;
    }
    let mut process = command.spawn().unwrap();
    let (mut input, mut output) = (process.stdin.take().unwrap(), process.stdout.take().unwrap());
    let mut seen = Vec::new();
    let mut byte = [0];
    for (prompt, answer) in dialogue {
        let mut piece = Vec::new();
        while !piece.ends_with(prompt.as_bytes()) {
            assert_eq!(output.read(&mut byte).unwrap(), 1, "the end instead of {prompt}: {}", seen.escape_ascii());
            piece.push(byte[0]);
            seen.push(byte[0]);
        }
        input.write_all(answer).unwrap();
    }
    output.read_to_end(&mut seen).unwrap();
    wait_for("the terminal session has ended", || process.try_wait().unwrap());
    Some(String::from_utf8_lossy(&seen).into_owned())
}

#[test]
fn the_command_gets_the_terminal_and_gives_it_back() {
    let text = format!(
        "sh -c '{VLLAMA} init -- sh -c \"echo first?; read x; echo got \\$x; exit 4\"; echo code $?; echo second?; read y; echo back $y'"
    );
    let Some(seen) = on_a_terminal(&text, &[("first?", b"one\n"), ("second?", b"two\n")]) else {
        return;
    };
    for expected in ["got one", "code 4", "back two"] {
        assert!(seen.contains(expected), "{expected}: {seen}");
    }
}

#[test]
fn ctrl_c_reaches_the_command_and_not_the_init() {
    let text = format!(
        "{VLLAMA} init -- sh -c 'trap \"echo interrupted; exit 3\" INT; echo ready?; while :; do sleep 0.02; done'; echo code $?"
    );
    let Some(seen) = on_a_terminal(&text, &[("ready?", b"\x03")]) else {
        return;
    };
    assert!(seen.contains("interrupted"), "{seen}");
    assert!(seen.contains("code 3"), "{seen}");
}

#[test]
fn in_the_background_the_terminal_is_left_where_it_is() {
    let text = format!("bash -c 'set -m; {VLLAMA} init -- sleep 0.1 & wait; echo question?; read x; echo got $x'");
    let Some(seen) = on_a_terminal(&text, &[("question?", b"answer\n")]) else {
        return;
    };
    assert!(seen.contains("got answer"), "{seen}");
}
