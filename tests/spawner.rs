//! The init as the rest of the program uses it: `Init`, `Spawner`, `Session`, `Stopper`.
//!
//! A program of its own without the test harness: the init must be made before any other thread and owns every child.

#![allow(clippy::unwrap_used, reason = "a test may panic")]

#[path = "support/init/mod.rs"]
mod support;

use std::ffi::OsString;
use std::fs::File;
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, mpsc};
use std::time::Duration;

use nix::sys::signal::{Signal as Number, kill};
use nix::unistd::Pid;
use support::{children, look, wait_until};
use vllama::init::{Child, Exit, GENERATION, Init, Session, Signal, Spawner, Spec};

/// What two listeners panic with on purpose.
const EXPECTED: &str = "a bug in a listener";

fn main() {
    let tell = std::panic::take_hook();
    std::panic::set_hook(Box::new(move |panic| {
        if !panic.payload_as_str().is_some_and(|text| text.contains(EXPECTED)) {
            tell(panic);
        }
    }));
    let init = Init::new().unwrap();
    assert!(Init::new().is_err(), "a second init must be refused");
    let (spawner, stopper) = (init.spawner(), init.stopper());
    let signals = Arc::new(AtomicUsize::new(0));
    let counted = Arc::clone(&signals);
    let checks = std::thread::Builder::new().name("checks".into()).spawn(move || {
        let failed = run_checks(&spawner, &signals);
        // Only the first call counts.
        stopper.stop(if failed == 0 { 42 } else { 1 });
        stopper.stop(43);
    });
    let code = init.run(move |signal| {
        counted.fetch_add(1, Ordering::SeqCst);
        assert_ne!(signal, Signal::User2, "{EXPECTED}");
    });
    checks.unwrap().join().unwrap();
    assert_eq!(code, 42, "failed checks are named above");
}

fn run_checks(spawner: &Spawner, signals: &AtomicUsize) -> usize {
    let checks: &[(&str, &dyn Fn())] = &[
        ("nothing is inherited", &|| nothing_is_inherited(spawner)),
        ("the environment is the one given and the marker", &|| environment_is_complete(spawner)),
        ("output and error are piped", &|| output_and_error_are_piped(spawner)),
        ("every kind of end is told as it was", &|| ends_are_told(spawner)),
        ("what cannot be executed is an error and nothing else", &|| failures_leave_nothing(spawner)),
        ("500 programs from many threads end once each", &|| storm(spawner, signals)),
        ("a panic in a listener ends nothing", &|| panics_are_caught(spawner, signals)),
        ("a stopped leader has not ended", &|| stopping_is_no_end(spawner)),
        ("a leader that was reaped is not signalled", &|| reaped_leaders_are_left_alone(spawner)),
        ("kill_all finds who left the session", &|| deserters_are_found(spawner)),
        ("kill_all finds them after the leader's death", &|| deserters_are_found_without_their_leader(spawner)),
        ("kill_all kills what forks all the time", &|| forking_is_no_escape(spawner)),
        ("freeze_except stops all but the spared, and they can be killed", &|| the_frozen_can_be_killed(spawner)),
        ("kill_all kills nobody else", &|| others_are_spared(spawner)),
        ("a recycled pid is nobody else's", &|| recycled_pids_are_told_apart(spawner)),
        ("many files, no core dumps", &|| limits_are_set(spawner)),
        ("memory is counted over all members", &|| memory_is_counted(spawner)),
        ("the kernel would rather kill a child than us", &|| children_go_first(spawner)),
    ];
    support::run_checks("spawner", checks)
}

/// A program with its exit to come.
struct Started {
    child: Child,
    exit: mpsc::Receiver<Exit>,
}

impl Started {
    fn text(&mut self) -> String {
        let mut text = String::new();
        File::from(self.child.stdout.take().unwrap()).read_to_string(&mut text).unwrap();
        text
    }

    fn exit(&self) -> Exit {
        self.exit.recv_timeout(support::DEADLINE).unwrap()
    }

    /// Reads the one line the script prints when everything is set up.
    fn ready(&mut self) {
        let mut stdout = File::from(self.child.stdout.take().unwrap());
        let mut line = [0; 6];
        stdout.read_exact(&mut line).unwrap();
        assert_eq!(&line, b"ready\n");
        self.child.stdout = Some(stdout.into());
    }

    fn session(&self) -> Session {
        self.child.handle()
    }
}

fn spec(program: &str, arguments: &[&str]) -> Spec {
    let path = std::env::var_os("PATH").unwrap();
    Spec {
        program: program.into(),
        arguments: arguments.iter().map(OsString::from).collect(),
        environment: vec![("PATH".into(), path)],
        ..Spec::default()
    }
}

fn start(spawner: &Spawner, spec: &Spec) -> std::io::Result<Started> {
    let (sender, exit) = mpsc::channel();
    let child = spawner.spawn(
        spec,
        Box::new(move |exit| {
            assert_eq!(std::thread::current().name(), Some("main"));
            // The receiver may be gone in tests that do not look at the end.
            let _ = sender.send(exit);
        }),
    )?;
    Ok(Started { child, exit })
}

fn script(spawner: &Spawner, text: &str) -> Started {
    start(spawner, &spec("sh", &["-c", text])).unwrap()
}

fn nothing_is_inherited(spawner: &Spawner) {
    // A descriptor nobody has marked, as one from a parent of ours would be.
    let leaked = nix::unistd::dup(File::open("/dev/zero").unwrap()).unwrap();
    assert!(leaked.as_raw_fd() > 2);
    nix::fcntl::fcntl(&leaked, nix::fcntl::FcntlArg::F_SETFD(nix::fcntl::FdFlag::empty())).unwrap();
    // The shell itself reads its state: dash blocks all signals while it starts a program.
    let mut started = script(
        spawner,
        "read -r stat < /proc/$$/stat; echo $$ $stat; pwd; umask; for f in /proc/$$/fd/*; do test -e $f && echo ${f##*/} $(readlink $f); done; \
         echo status; while read -r line; do echo \"$line\"; done < /proc/$$/status",
    );
    let text = started.text();
    drop(leaked);
    let (head, status) = text.split_once("status\n").unwrap();
    let lines: Vec<&str> = head.lines().collect();
    let first: Vec<&str> = lines[0].split(' ').collect();
    // pid, then pid (name) state parent group session …
    let pid = started.child.pid().to_string();
    assert_eq!((first[0], first[1], first[5], first[6]), (&*pid, &*pid, &*pid, &*pid), "a session of its own");
    assert_eq!(lines[1..3], ["/", "0077"]);
    let open = &lines[3..];
    assert!(open.contains(&"0 /dev/null"), "{open:?}");
    assert!(!head.contains("/dev/zero"), "{open:?}");
    // The shell saves descriptors of its own from 10 on.
    let numbers = open.iter().map(|line| line.split(' ').next().unwrap().parse::<i32>().unwrap());
    assert_eq!(numbers.filter(|number| *number < 10).collect::<Vec<_>>(), [0, 1, 2]);
    for name in ["SigBlk", "SigIgn", "SigPnd"] {
        let line = status.lines().find(|line| line.starts_with(name)).unwrap();
        assert!(line.ends_with("\t0000000000000000"), "{line}");
    }
    assert_eq!(started.exit(), Exit::Code(0));
}

fn environment_is_complete(spawner: &Spawner) {
    let mut spec = spec("env", &[]);
    for name in ["NOTIFY_SOCKET", "LISTEN_PID", "LISTEN_FDS", GENERATION, "ÜMLAUT"] {
        spec.environment.push((name.into(), "x".into()));
    }
    let [first, second] = [(); 2].map(|()| {
        let text = start(spawner, &spec).unwrap().text();
        let mut names: Vec<_> = text.lines().map(|line| line.split('=').next().unwrap()).collect();
        names.sort_unstable();
        assert_eq!(names, ["PATH", GENERATION, "ÜMLAUT"]);
        text.lines().find(|line| line.starts_with(GENERATION)).unwrap().to_owned()
    });
    assert_ne!(first, second, "no two spawns carry the same marker");
}

fn output_and_error_are_piped(spawner: &Spawner) {
    let mut started = script(spawner, "echo out; echo error >&2; read line || echo nothing to read");
    assert_eq!(started.text(), "out\nnothing to read\n");
    let mut text = String::new();
    File::from(started.child.stderr.take().unwrap()).read_to_string(&mut text).unwrap();
    assert_eq!(text, "error\n");
}

fn ends_are_told(spawner: &Spawner) {
    for (text, exit) in [
        ("exit 0", Exit::Code(0)),
        ("exit 255", Exit::Code(255)),
        ("kill -9 $$", Exit::Signal(9)),
        ("kill -15 $$", Exit::Signal(15)),
        ("kill -40 $$", Exit::Signal(40)),
        ("kill -64 $$", Exit::Signal(64)),
    ] {
        assert_eq!(script(spawner, text).exit(), exit, "{text}");
    }
}

fn failures_leave_nothing(spawner: &Spawner) {
    let directory = tempfile::tempdir().unwrap();
    let garbage = directory.path().join("garbage");
    std::fs::write(&garbage, "no program").unwrap();
    let mode = |mode| std::fs::set_permissions(&garbage, std::os::unix::fs::PermissionsExt::from_mode(mode)).unwrap();
    let failure = |spec: &Spec| {
        let called = Arc::new(AtomicBool::new(false));
        let witness = Arc::clone(&called);
        let error = spawner.spawn(spec, Box::new(move |_| witness.store(true, Ordering::SeqCst))).unwrap_err();
        assert_eq!(Arc::strong_count(&called), 1, "the listener is dropped");
        assert!(!called.load(Ordering::SeqCst), "the listener is not called");
        assert_eq!(children(std::process::id().cast_signed()).len(), 0, "no zombie: {error}");
        error
    };
    for _ in 0..50 {
        assert_eq!(failure(&spec("/nowhere/to/be/found", &[])).kind(), ErrorKind::NotFound);
    }
    assert_eq!(failure(&spec("not-in-the-path", &[])).kind(), ErrorKind::NotFound);
    assert_eq!(failure(&spec("", &[])).kind(), ErrorKind::NotFound);
    mode(0o600);
    assert_eq!(failure(&spec(garbage.to_str().unwrap(), &[])).kind(), ErrorKind::PermissionDenied);
    mode(0o700);
    let error = failure(&spec(garbage.to_str().unwrap(), &[]));
    assert!(error.to_string().contains("Exec format error"), "{error}");
    assert_eq!(failure(&spec("/", &[])).kind(), ErrorKind::PermissionDenied);
    assert_eq!(failure(&spec("true", &["a\0b"])).kind(), ErrorKind::InvalidInput);
    let error = failure(&Spec { directory: "/nowhere".into(), ..spec("true", &[]) });
    assert_eq!(error.kind(), ErrorKind::NotFound);
    assert!(error.to_string().contains("/nowhere"), "{error}");
}

/// Several threads start programs, some of which cannot be executed, while signals and orphans rain on us.
fn storm(spawner: &Spawner, signals: &AtomicUsize) {
    const THREADS: usize = 8;
    const EACH: usize = 63;
    let over = AtomicBool::new(false);
    let before = signals.load(Ordering::SeqCst);
    let ends: Vec<AtomicUsize> = (0..THREADS * EACH).map(|_| AtomicUsize::new(0)).collect();
    let ends = Arc::new(ends);
    let wrong = Arc::new(AtomicUsize::new(0));
    std::thread::scope(|scope| {
        scope.spawn(|| {
            while !over.load(Ordering::SeqCst) {
                kill(Pid::this(), Number::SIGUSR1).unwrap();
                std::thread::sleep(Duration::from_micros(200));
            }
        });
        let starters: Vec<_> = (0..THREADS)
            .map(|thread| {
                let (ends, wrong) = (&ends, &wrong);
                scope.spawn(move || {
                    for turn in 0..EACH {
                        let index = thread * EACH + turn;
                        let code = i32::try_from(index % 256).unwrap();
                        // Leaves an orphan behind.
                        let spec = spec("sh", &["-c", &format!("(true &); exit {code}")]);
                        let (ends, wrong) = (Arc::clone(ends), Arc::clone(wrong));
                        let listener = move |exit| {
                            ends[index].fetch_add(1, Ordering::SeqCst);
                            wrong.fetch_add(usize::from(exit != Exit::Code(code)), Ordering::SeqCst);
                        };
                        spawner.spawn(&spec, Box::new(listener)).unwrap();
                        let missing = spawner.spawn(&self::spec("/nowhere", &[]), Box::new(|_| unreachable!()));
                        assert!(missing.is_err());
                    }
                })
            })
            .collect();
        starters.into_iter().for_each(|starter| starter.join().unwrap());
        wait_until("every end is told", || ends.iter().all(|count| count.load(Ordering::SeqCst) > 0));
        over.store(true, Ordering::SeqCst);
    });
    assert!(ends.iter().all(|count| count.load(Ordering::SeqCst) == 1), "each end is told once");
    assert_eq!(wrong.load(Ordering::SeqCst), 0, "each end is told as it was");
    assert!(signals.load(Ordering::SeqCst) > before + 10, "signals arrive all the while");
}

fn panics_are_caught(spawner: &Spawner, signals: &AtomicUsize) {
    let before = signals.load(Ordering::SeqCst);
    kill(Pid::this(), Number::SIGUSR2).unwrap();
    wait_until("the signal is told", || signals.load(Ordering::SeqCst) > before);
    let listener = |_| panic!("{EXPECTED}");
    spawner.spawn(&spec("true", &[]), Box::new(listener)).unwrap();
    assert_eq!(script(spawner, "exit 5").exit(), Exit::Code(5));
}

fn stopping_is_no_end(spawner: &Spawner) {
    let mut started = script(spawner, "trap 'exit 6' USR1; echo ready; while :; do sleep 0.02; done");
    started.ready();
    let (session, pid) = (started.session(), started.child.pid());
    assert!(session.signal_leader(libc::SIGSTOP));
    wait_until("the leader is stopped", || look(pid).is_some_and(|seen| seen.state == 'T'));
    // Another child's whole life passes while this one is stopped.
    assert_eq!(script(spawner, "exit 1").exit(), Exit::Code(1));
    assert!(started.exit.try_recv().is_err());
    assert!(session.members().contains(&pid));
    assert!(session.signal_leader(libc::SIGCONT));
    assert!(session.signal_leader(libc::SIGUSR1));
    assert_eq!(started.exit(), Exit::Code(6));
}

fn reaped_leaders_are_left_alone(spawner: &Spawner) {
    let started = script(spawner, "exit 0");
    assert_eq!(started.exit(), Exit::Code(0));
    assert!(!started.session().signal_leader(libc::SIGKILL));
    assert_eq!(started.session().members(), Vec::<i32>::new());
    assert_eq!(started.session().memory_bytes(), 0);
    started.session().kill_all();
    let alive = script(spawner, "sleep 1000");
    assert!(!alive.session().signal_leader(-1), "no signal");
    assert!(alive.session().signal_leader(0), "signal 0 asks whether it is there");
    alive.session().kill_all();
    assert_eq!(alive.exit(), Exit::Signal(9));
}

/// The leader, a process of its session, and one that is twice forked and in a session of its own.
const DESERTER: &str = "setsid -f sh -c 'echo ready; sleep 1000' & wait; sleep 1000";

fn deserters_are_found(spawner: &Spawner) {
    let mut started = script(spawner, DESERTER);
    started.ready();
    let session = started.session();
    // sh, sleep, sh, sleep; a shell may exec its last command.
    wait_until("members of two sessions", || {
        let sessions = session.members().into_iter().filter_map(look).map(|seen| seen.session);
        let sessions: std::collections::HashSet<i32> = sessions.collect();
        sessions.len() == 2 && sessions.contains(&started.child.pid())
    });
    session.kill_all();
    assert_eq!(started.exit(), Exit::Signal(9));
    wait_until("all members are dead", || session.members().is_empty());
}

fn the_frozen_can_be_killed(spawner: &Spawner) {
    let mut started = script(spawner, "setsid -f sleep 1001 & setsid -f sleep 1002 & wait; echo ready; sleep 1000");
    started.ready();
    let session = started.session();
    // The shell has these words in its script.
    let spared = |command: &str| command.contains("1002") && !command.contains("setsid");
    let states = || {
        let members = session.members().into_iter();
        let states = members.filter_map(|pid| {
            let command = std::fs::read_to_string(format!("/proc/{pid}/cmdline")).ok()?;
            Some((spared(&command), look(pid)?.state))
        });
        states.collect::<Vec<_>>()
    };
    wait_until("all are members", || states().iter().any(|(spared, _)| *spared) && states().len() > 2);
    let frozen = session.freeze_except(spared);
    wait_until("all but the spared one are stopped", || {
        states().iter().all(|(spared, state)| *spared == (*state != 'T'))
    });
    let sorted = |mut pids: Vec<i32>| {
        pids.sort_unstable();
        pids
    };
    assert_eq!(sorted(frozen.pids()), sorted(session.members()));
    frozen.kill();
    assert_eq!(started.exit(), Exit::Signal(9));
    wait_until("all but the spared one are dead", || states().iter().all(|(spared, _)| *spared));
    assert!(!frozen.are_gone(), "the spared one lives");
    session.kill_all();
    wait_until("all members are dead", || frozen.are_gone() && session.members().is_empty());
}

fn deserters_are_found_without_their_leader(spawner: &Spawner) {
    let mut started = script(spawner, DESERTER);
    started.ready();
    let session = started.session();
    assert!(session.signal_leader(libc::SIGKILL));
    assert_eq!(started.exit(), Exit::Signal(9));
    assert!(!session.members().is_empty());
    session.kill_all();
    wait_until("all members are dead", || session.members().is_empty());
    // The pipe has no writer any more.
    assert_eq!(started.text(), "");
}

fn forking_is_no_escape(spawner: &Spawner) {
    // Two generations of processes that fork and end, in groups of their own.
    let mut started = script(spawner, "(set -m; f() { sleep 0.01; (f &) ; }; f & f & f &) ; echo ready; sleep 1000");
    started.ready();
    let session = started.session();
    session.kill_all();
    wait_until("all members are dead", || session.members().is_empty());
}

fn others_are_spared(spawner: &Spawner) {
    let one = script(spawner, "sleep 1000");
    let mut other = script(spawner, "trap 'exit 3' TERM; echo ready; while :; do sleep 0.02; done");
    other.ready();
    one.session().kill_all();
    assert_eq!(one.exit(), Exit::Signal(9));
    assert!(other.session().signal_leader(libc::SIGTERM));
    assert_eq!(other.exit(), Exit::Code(3));
}

fn memory_is_counted(spawner: &Spawner) {
    let text =
        "dd if=/dev/zero bs=50M count=1 2>/dev/null | { dd bs=50M count=1 iflag=fullblock 2>/dev/null | sleep 1000; }";
    let started = script(spawner, text);
    let session = started.session();
    wait_until("50 MB are resident", || session.memory_bytes() > 50_000_000);
    session.kill_all();
    started.exit();
}

fn children_go_first(spawner: &Spawner) {
    let own: i32 = std::fs::read_to_string("/proc/self/oom_score_adj").unwrap().trim().parse().unwrap();
    for above in [0, 300, 2000] {
        let spec = Spec { out_of_memory_score: above, ..spec("cat", &["/proc/self/oom_score_adj"]) };
        let found: i32 = start(spawner, &spec).unwrap().text().trim().parse().unwrap();
        assert_eq!(found, (own + i32::from(above)).min(1000));
    }
}

/// Makes the kernel give a dead leader's pid to the next one, as happens after some ten thousand processes.
fn recycled_pids_are_told_apart(spawner: &Spawner) {
    for _ in 0..100 {
        let dead = script(spawner, "exit 0");
        assert_eq!(dead.exit(), Exit::Code(0));
        let last = (dead.child.pid() - 1).to_string();
        if let Err(error) = std::fs::write("/proc/sys/kernel/ns_last_pid", last) {
            println!("skipped (1): pids cannot be chosen here: {error}");
            return;
        }
        let mut heir = script(spawner, "trap '' TERM; sh -c 'echo ready; exec sleep 1000' & wait; exit 1");
        heir.ready();
        if heir.child.pid() == dead.child.pid() {
            let (dead, session) = (dead.session(), heir.session());
            assert!(!dead.signal_leader(libc::SIGKILL));
            dead.kill_all();
            assert_eq!(dead.members(), Vec::<i32>::new());
            // Now without a leader: the number of the session alone does not tell whose it is.
            assert!(session.signal_leader(libc::SIGKILL));
            assert_eq!(heir.exit(), Exit::Signal(9));
            dead.kill_all();
            assert_eq!((dead.members().len(), session.members().len()), (0, 1));
            session.kill_all();
            return;
        }
        // Somebody else was quicker.
        heir.session().kill_all();
    }
    println!("skipped (1): the pid that was wanted never came");
}

fn limits_are_set(spawner: &Spawner) {
    let text = script(spawner, "ulimit -Sc; ulimit -Sn; ulimit -Hn").text();
    let limits: Vec<&str> = text.lines().collect();
    assert_eq!(limits[0], "0");
    let number = |text: &str| text.parse().unwrap_or(u64::MAX);
    assert!(number(limits[1]) >= number(limits[2]).min(1 << 20), "{limits:?}");
}
