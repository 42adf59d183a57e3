//! One command under the init: what `vllama init -- CMD…` does, in the manner of tini and catatonit.

use std::ffi::OsString;
use std::io;
use std::io::IsTerminal;

use nix::sys::signal::SigSet;
use nix::unistd::{Pid, getpgrp, tcgetpgrp, tcsetpgrp};

use super::fork::{Launch, Place};
use super::run::Init;
use super::sys;

/// Runs one command and everything it leaves behind until the command ends; returns its code, or 128 + the signal that
/// killed it.
///
/// The command gets standard streams, descriptors, environment, directory, limits and signal mask as they are, and a
/// process group of its own in the same session. Where that group can have the terminal on standard input it gets it,
/// and it is taken back at the end. `LISTEN_PID` (systemd's socket activation) is rewritten when it named us.
///
/// Every signal that can be caught is passed on to the command alone, SIGCHLD excepted, real-time signals included.
/// Orphans are reaped as they come. When the command has ended, processes that still run are left alone, as tini does:
/// below PID 1 the kernel kills them, elsewhere they go to the next init. Their zombies are reaped before the return.
///
/// Call it on the main thread before any other thread exists, once.
///
/// # Errors
/// The program is not there ([`io::ErrorKind::NotFound`]) or cannot be run.
pub fn run_command(command: &[OsString]) -> io::Result<i32> {
    // All of them, also those a fault raises: a real fault ends a process even where its signal is blocked.
    let init = Init::with(SigSet::all())?;
    let own_group = getpgrp();
    // SIGTTOU is blocked, so handing over the terminal cannot stop us or the child.
    let stdin = io::stdin();
    let terminal = stdin.is_terminal() && tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == own_group);
    let launch = Launch::new(command, sys::environment(), Place::Group { terminal }, init.original)?;
    let stopper = init.stopper();
    let session = init.spawner().launch(&launch, Box::new(move |exit| stopper.stop(exit.shell_code())))?;
    let child = Pid::from_raw(session.pid());
    let code = init.serve(|signal| {
        // False only when it has ended already, and then there is nobody to tell.
        session.signal_leader(signal);
    });
    if terminal && tcgetpgrp(&stdin).is_ok_and(|foreground| foreground == child) {
        // Whoever started us reads from the terminal next; a shell without job control would not fetch it back.
        let _ = tcsetpgrp(&stdin, own_group);
    }
    Ok(code)
}
