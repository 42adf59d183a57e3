//! fork and exec by hand.
//!
//! Not `std::process::Command`: it waits for a child whose exec failed where the reaper may be faster, keeps ignored
//! signals ignored and hands on whatever descriptor somebody forgot to mark. Between fork and exec only calls that are
//! safe in a signal handler are made (signal-safety(7)): other threads may have held any lock, the allocator's too, when
//! the copy was taken. So everything is made before, in a [`Launch`].

#![allow(unsafe_code)]

use std::ffi::{CString, OsStr, OsString};
use std::fs::File;
use std::io::{self, Read};
use std::os::fd::{AsRawFd, OwnedFd, RawFd};
use std::os::unix::ffi::OsStrExt;
use std::path::Path;

use nix::errno::Errno;
use nix::fcntl::OFlag;
use nix::sys::signal::SigSet;

/// Where a new process lives.
pub(super) enum Place {
    /// A session of its own, nothing inherited: these three descriptors as standard streams, every other one closed on
    /// exec, all signals at their defaults, umask 077.
    Session {
        /// Standard input, output and error; each above 2, which std sees to at start.
        streams: [RawFd; 3],
        /// What to write to `/proc/self/oom_score_adj`.
        out_of_memory_score: CString,
    },
    /// A process group of its own in our session, all else inherited.
    Group {
        /// Whether to make it the foreground group of the terminal on standard input.
        terminal: bool,
    },
}

/// A program, ready to be started; all memory the child needs.
pub(super) struct Launch {
    /// The program as it was named, for messages.
    program: OsString,
    /// The files to try, in this order.
    candidates: Vec<CString>,
    arguments: Strings,
    environment: Strings,
    /// The entry to fill with the child's own pid: `LISTEN_PID=`, ten zeros.
    listen_pid: Option<usize>,
    directory: Option<CString>,
    place: Place,
    mask: SigSet,
}

/// C strings and the null-terminated array of pointers to them that exec wants.
struct Strings {
    pointers: Vec<*mut libc::c_char>,
    /// What the pointers point to; moving a `Vec` does not move what it holds.
    _owned: Vec<Vec<u8>>,
}

impl Strings {
    fn new(mut owned: Vec<Vec<u8>>) -> Self {
        let mut pointers: Vec<_> = owned.iter_mut().map(|text| text.as_mut_ptr().cast()).collect();
        pointers.push(std::ptr::null_mut());
        Self { pointers, _owned: owned }
    }

    fn as_ptr(&self) -> *const *const libc::c_char {
        self.pointers.as_ptr().cast()
    }
}

/// Which step between fork and exec failed.
#[derive(Clone, Copy)]
enum Step {
    Session = 1,
    Group,
    Streams,
    Directory,
    Exec,
}

impl Launch {
    /// Prepares `command` (program, then arguments) with an environment of NUL-terminated `NAME=value` entries.
    ///
    /// # Errors
    /// An argument holds a NUL, or no program is named.
    pub(super) fn new(
        command: &[OsString],
        mut environment: Vec<Vec<u8>>,
        place: Place,
        mask: SigSet,
    ) -> io::Result<Self> {
        let Some(program) = command.first().filter(|program| !program.is_empty()) else {
            return Err(io::Error::new(io::ErrorKind::NotFound, "no program is named"));
        };
        let path = environment.iter().find_map(|entry| entry.strip_prefix(b"PATH=")?.strip_suffix(b"\0"));
        let candidates = candidates(program, path)?;
        let arguments = command.iter().map(|text| Ok(c_string(text)?.into_bytes_with_nul()));
        let arguments = Strings::new(arguments.collect::<io::Result<_>>()?);
        // systemd's protocol: the sockets are meant for the process with this pid, which was us and is now the command.
        let ours = format!("LISTEN_PID={}\0", std::process::id());
        let listen_pid = environment.iter().position(|entry| entry == ours.as_bytes());
        if let Some(index) = listen_pid {
            environment[index] = b"LISTEN_PID=0000000000\0".to_vec();
        }
        let environment = Strings::new(environment);
        let program = program.clone();
        Ok(Self { program, candidates, arguments, environment, listen_pid, directory: None, place, mask })
    }

    /// Starts the program in this directory.
    ///
    /// # Errors
    /// The path holds a NUL.
    pub(super) fn directory(mut self, directory: &Path) -> io::Result<Self> {
        self.directory = Some(c_string(directory.as_os_str())?);
        Ok(self)
    }

    /// Forks; the child goes on to exec. Returns its pid and what to give to [`Launch::finish`].
    /// To be called under the reaper's lock, so that no other child inherits the writing end of the report.
    pub(super) fn fork(&self) -> io::Result<(i32, OwnedFd)> {
        let (report, writer) = nix::unistd::pipe2(OFlag::O_CLOEXEC)?;
        // No handler of ours may run in the child: it would run in a copy of a process with one of many threads.
        let before = SigSet::all().thread_swap_mask(nix::sys::signal::SigmaskHow::SIG_SETMASK)?;
        // SAFETY: the child calls nothing but `become_program`, which makes only async-signal-safe calls and never
        // returns.
        let pid = unsafe { libc::fork() };
        if pid == 0 {
            // SAFETY: we are the child of a fork, with all signals blocked.
            unsafe { self.become_program(writer.as_raw_fd()) }
        }
        let failure = io::Error::last_os_error();
        // Cannot fail for a mask the kernel has given us; and a child that exists must not be forgotten.
        let _ = before.thread_set_mask();
        if pid < 0 { Err(failure) } else { Ok((pid, report)) }
    }

    /// Waits until exec has worked, or tells why it has not. The child is on its way out then, but not reaped.
    pub(super) fn finish(&self, report: OwnedFd) -> io::Result<()> {
        let mut text = Vec::new();
        File::from(report).read_to_end(&mut text)?;
        // Nothing written: exec has closed the pipe, or the child was killed before; then its end is told as any other.
        let Some((step, errno)) = text.split_at_checked(4) else {
            return Ok(());
        };
        let errno = errno.try_into().map_or(0, i32::from_ne_bytes);
        let error = io::Error::from_raw_os_error(errno);
        let what = match step.first() {
            Some(step) if *step == Step::Session as u8 => "cannot make a session".to_owned(),
            Some(step) if *step == Step::Group as u8 => "cannot make a process group".to_owned(),
            Some(step) if *step == Step::Streams as u8 => "cannot set up the standard streams".to_owned(),
            Some(step) if *step == Step::Directory as u8 => format!("cannot enter {:?}", self.directory),
            _ => format!("cannot run {}", self.program.display()),
        };
        Err(io::Error::new(error.kind(), format!("{what}: {error}")))
    }

    /// Turns this process into the program, or writes step and errno to `report` and ends.
    ///
    /// # Safety
    /// Only in the child of a fork, with all signals blocked.
    unsafe fn become_program(&self, report: RawFd) -> ! {
        // SAFETY: handed on to our caller; the buffer outlives the write.
        unsafe {
            let step = match self.prepare() {
                Ok(()) => self.exec(),
                Err(step) => (step, Errno::last_raw()),
            };
            let mut text = [0; 8];
            text[0] = step.0 as u8;
            text[4..].copy_from_slice(&step.1.to_ne_bytes());
            libc::write(report, text.as_ptr().cast(), text.len());
            libc::_exit(127)
        }
    }

    unsafe fn prepare(&self) -> Result<(), Step> {
        let check = |result: libc::c_int, step| if result < 0 { Err(step) } else { Ok(()) };
        // SAFETY: async-signal-safe calls on numbers and on strings made before the fork.
        unsafe {
            match &self.place {
                Place::Session { streams, out_of_memory_score } => {
                    check(libc::setsid(), Step::Session)?;
                    for (target, source) in (0..).zip(streams) {
                        check(libc::dup2(*source, target), Step::Streams)?;
                    }
                    libc::umask(0o077);
                    // The system call itself, because the C library refuses the two signals it keeps for itself, which
                    // we may have been given as ignored. All zeros: SIG_DFL, no flags, nothing blocked.
                    let default = [0_u64; 4];
                    for signal in 1..=64 {
                        let old = std::ptr::null_mut::<u64>();
                        libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), old, 8_usize);
                    }
                    close_others_on_exec();
                    write_file(c"/proc/self/oom_score_adj", out_of_memory_score);
                }
                Place::Group { terminal } => {
                    check(libc::setpgid(0, 0), Step::Group)?;
                    if *terminal {
                        // Refused at worst, and then the command runs in the background.
                        libc::tcsetpgrp(0, libc::getpid());
                    }
                    // Rust's start-up code has ignored it, which is no business of the command.
                    libc::signal(libc::SIGPIPE, libc::SIG_DFL);
                    self.write_listen_pid();
                }
            }
            if let Some(directory) = &self.directory {
                check(libc::chdir(directory.as_ptr()), Step::Directory)?;
            }
            libc::sigprocmask(libc::SIG_SETMASK, self.mask.as_ref(), std::ptr::null_mut());
        }
        Ok(())
    }

    /// Returns only when no candidate could be executed. The rules are execvp(3)'s but for one: a file without a `#!`
    /// line is not handed to a shell.
    unsafe fn exec(&self) -> (Step, i32) {
        let mut errno = libc::ENOENT;
        for candidate in &self.candidates {
            // SAFETY: a C string and two null-terminated arrays of C strings, all alive.
            unsafe { libc::execve(candidate.as_ptr(), self.arguments.as_ptr(), self.environment.as_ptr()) };
            match Errno::last_raw() {
                libc::EACCES => errno = libc::EACCES,
                libc::ENOENT | libc::ENOTDIR | libc::ENODEV | libc::ESTALE | libc::ETIMEDOUT => {}
                other => return (Step::Exec, other),
            }
        }
        (Step::Exec, errno)
    }

    unsafe fn write_listen_pid(&self) {
        let Some(entry) = self.listen_pid.and_then(|index| self.environment.pointers.get(index)) else {
            return;
        };
        // SAFETY: the entry is a text of ours, "LISTEN_PID=" and room for ten digits and a NUL, which is what the largest
        // pid needs, and after a fork nobody else uses it.
        unsafe {
            let pid = libc::getpid();
            // No leading zeros: some readers take them for octal.
            let mut digits = 1;
            let mut rest = pid / 10;
            while rest > 0 {
                digits += 1;
                rest /= 10;
            }
            let start = entry.add("LISTEN_PID=".len());
            *start.add(digits) = 0;
            rest = pid;
            for place in (0..digits).rev() {
                *start.add(place) = b'0' as libc::c_char + (rest % 10) as libc::c_char;
                rest /= 10;
            }
        }
    }
}

/// Marks every descriptor above 2 to be closed on exec, whoever opened it.
unsafe fn close_others_on_exec() {
    // SAFETY: system calls on numbers.
    unsafe {
        if libc::syscall(libc::SYS_close_range, 3, libc::c_uint::MAX, libc::CLOSE_RANGE_CLOEXEC) == 0 {
            return;
        }
        // Before Linux 5.11. Ours are marked anyway; this is for descriptors that we were started with, which are low.
        for descriptor in 3..4096 {
            libc::fcntl(descriptor, libc::F_SETFD, libc::FD_CLOEXEC);
        }
    }
}

/// Writes a text to a file, if that can be done.
unsafe fn write_file(path: &std::ffi::CStr, text: &std::ffi::CStr) {
    // SAFETY: two C strings, and the descriptor we have just opened.
    unsafe {
        let file = libc::open(path.as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file >= 0 {
            libc::write(file, text.as_ptr().cast(), text.to_bytes().len());
            libc::close(file);
        }
    }
}

fn c_string(text: &OsStr) -> io::Result<CString> {
    CString::new(text.as_bytes()).map_err(|_| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("{text:?} holds a NUL, which no argument or path can"))
    })
}

/// The files a program's name may stand for: itself with a slash, else one in each directory of the path.
fn candidates(program: &OsStr, path: Option<&[u8]>) -> io::Result<Vec<CString>> {
    if program.as_bytes().contains(&b'/') {
        return Ok(vec![c_string(program)?]);
    }
    // The C library's default, for an environment without PATH. An empty entry means the working directory.
    let path = path.unwrap_or(b"/bin:/usr/bin");
    path.split(|byte| *byte == b':')
        .map(|place| c_string(Path::new(OsStr::from_bytes(place)).join(program).as_os_str()))
        .collect()
}
