//! Standard error where it leads to systemd's journal: lines begin with their priorities (sd-daemon(3)).

use std::os::fd::AsFd;
use std::os::unix::fs::MetadataExt;

/// Whether standard error is the stream of this device and inode, which leads to the journal.
pub(super) fn hears(stream: Option<(u64, u64)>) -> bool {
    let file = std::io::stderr().as_fd().try_clone_to_owned().map(std::fs::File::from);
    let status = file.and_then(|file| file.metadata());
    status.is_ok_and(|status| stream == Some((status.dev(), status.ino())))
}

/// Tells on standard error what has ended vllama; to the journal as an error, line by line.
pub(super) fn tell_error(text: &str, stream: Option<(u64, u64)>) {
    let text = if hears(stream) { format!("<3>✗ {}", text.replace('\n', "\n<3>")) } else { format!("✗ {text}") };
    eprintln!("{text}");
}
