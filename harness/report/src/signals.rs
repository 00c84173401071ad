//! The signals that end a program for its user: Ctrl-C, `kill`, and a terminal that is closed.

use signal_hook::consts::{SIGHUP, SIGINT, SIGTERM};
use signal_hook::flag;
use std::io;
use std::sync::Arc;
use std::sync::atomic::AtomicBool;

/// The exit code of a program that one of them ended.
pub const CODE: u8 = 130;

/// SIGINT and SIGTERM, and SIGHUP, unless this process was started to outlive its terminal (nohup(1)).
pub fn that_end() -> Vec<i32> {
    let status = std::fs::read_to_string("/proc/self/status").unwrap_or_default();
    match ignores(&status, SIGHUP) {
        true => vec![SIGINT, SIGTERM],
        false => vec![SIGINT, SIGTERM, SIGHUP],
    }
}

/// Whether the text of /proc/PID/status (proc(5)) says that a signal is ignored.
fn ignores(status: &str, signal: i32) -> bool {
    let mask = status
        .lines()
        .find_map(|line| line.strip_prefix("SigIgn:"))
        .and_then(|mask| u64::from_str_radix(mask.trim(), 16).ok());
    mask.is_some_and(|mask| mask & (1 << (signal - 1)) != 0)
}

/// Has the second `signal` end this process with [`CODE`] at once, whatever it does meanwhile.
///
/// # Errors
/// A signal that cannot be caught.
pub fn exits_at_second(signal: i32) -> io::Result<()> {
    let came = Arc::new(AtomicBool::new(false));
    // Registered first, it sees what the other has noted of an earlier signal.
    flag::register_conditional_shutdown(signal, CODE.into(), Arc::clone(&came))?;
    flag::register(signal, came).map(drop)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_signal_that_nohup_ignores_stays_ignored() {
        let status = "Name:\tx\nSigIgn:\t0000000000001001\nSigCgt:\t0\n";
        assert!(ignores(status, SIGHUP));
        assert!(!ignores(status, SIGINT));
        assert!(!ignores("", SIGHUP));
    }
}
