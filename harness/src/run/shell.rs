//! `cargo xtask repro --shell`: the terminal on the VM of a trial that has just ended.

use crate::testbed::Testbed;
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::termios::{self, SetArg, Termios};
use parking_lot::Mutex;
use report::errln;
use report::events::Outcome;
use std::io::Write;
use std::os::fd::AsFd as _;

/// QEMU's own escape character, Ctrl-A.
const ESCAPE: u8 = 0x01;

/// The terminal's state before raw mode, while that lasts.
static BEFORE: Mutex<Option<Termios>> = Mutex::new(None);

/// Takes the terminal out of raw mode, also where a signal ends the harness.
pub fn restore_terminal() {
    if let Some(before) = BEFORE.lock().take() {
        let _ = termios::tcsetattr(std::io::stdin(), SetArg::TCSANOW, &before);
    }
}

/// Puts the terminal in raw mode for as long as it lives.
pub(crate) struct Raw;

impl Raw {
    pub(crate) fn enter() -> Raw {
        let stdin = std::io::stdin();
        if let Ok(cooked) = termios::tcgetattr(&stdin) {
            let mut raw = cooked.clone();
            termios::cfmakeraw(&mut raw);
            *BEFORE.lock() = Some(cooked);
            // Without raw mode it works all the same, a line at a time.
            let _ = termios::tcsetattr(&stdin, SetArg::TCSANOW, &raw);
        }
        Raw
    }
}

impl Drop for Raw {
    fn drop(&mut self) {
        restore_terminal();
    }
}

/// Connects stdin to the serial console, and to the monitor after Ctrl-A c, until Ctrl-A x or the
/// end of stdin.
pub fn attach(bed: &Testbed, outcome: &Outcome) {
    let verdict = match outcome {
        Outcome::Failed { message }
        | Outcome::Known { message, .. }
        | Outcome::Broken { message } => {
            format!("failed: {message}")
        }
        Outcome::Skipped { reason } => format!("skipped: {reason}"),
        _ => "passed".to_owned(),
    };
    if let Some(death) = bed.vm.death() {
        errln!("\nThe trial {verdict}\nThere is no VM to look at any more: {death}");
        return;
    }
    errln!(
        "\nThe trial {verdict}\nThe VM is alive; this is its serial console. Ctrl-A c: monitor and back, Ctrl-A x: end.\nIts network: nsenter -t {} -n --preserve-credentials\n",
        nix::unistd::gettid()
    );
    let raw = Raw::enter();
    bed.vm.serial.attach();
    let mut keys = Keys {
        bed,
        monitor: false,
        escaped: false,
        line: String::new(),
    };
    let _ = bed.vm.serial.send(b"\n");
    let ended = keys.pass_on();
    drop(raw);
    errln!(
        "{}",
        ended.map_or_else(String::new, |how| format!("\n{how}"))
    );
}

struct Keys<'a> {
    bed: &'a Testbed,
    monitor: bool,
    escaped: bool,
    line: String,
}

impl Keys<'_> {
    /// Until the user or the VM ends it; says how the VM ended.
    fn pass_on(&mut self) -> Option<String> {
        let stdin = std::io::stdin();
        let mut buffer = [0; 256];
        loop {
            let mut ready = [
                PollFd::new(stdin.as_fd(), PollFlags::POLLIN),
                // poll reports a hang-up without being asked for it.
                PollFd::new(self.bed.vm.serial.as_fd(), PollFlags::empty()),
            ];
            match poll(&mut ready, PollTimeout::NONE) {
                Err(Errno::EINTR) => continue,
                Err(_) => return None,
                Ok(_) => {}
            }
            let [typed, hung_up] = ready.map(|fd| fd.any() == Some(true));
            if hung_up {
                let how = self.bed.vm.await_death();
                return Some(how.map_or("The console was closed".into(), |how| how.to_string()));
            }
            if typed {
                // Read around std's buffer, which poll does not see.
                let count = nix::unistd::read(stdin.as_fd(), &mut buffer).unwrap_or(0);
                if count == 0 || !buffer[..count].iter().all(|byte| self.press(*byte)) {
                    return None;
                }
            }
        }
    }

    /// Whether to go on.
    fn press(&mut self, byte: u8) -> bool {
        if std::mem::take(&mut self.escaped) {
            match byte {
                b'x' => return false,
                b'c' => {
                    self.monitor = !self.monitor;
                    let _ = write!(
                        std::io::stderr(),
                        "\r\n{}",
                        if self.monitor { "(qemu) " } else { "" }
                    );
                    return true;
                }
                _ => {}
            }
        } else if byte == ESCAPE {
            self.escaped = true;
            return true;
        }
        if !self.monitor {
            return self.bed.vm.serial.send(&[byte]).is_ok();
        }
        let mut err = std::io::stderr();
        match byte {
            b'\r' | b'\n' => {
                let line = std::mem::take(&mut self.line);
                let said = self
                    .bed
                    .vm
                    .hmp(&line)
                    .unwrap_or_else(|error| format!("{error:#}\n"));
                let said = said.replace("\r\n", "\n").replace('\n', "\r\n");
                let _ = write!(err, "\r\n{said}(qemu) ");
            }
            0x7f | 0x08 => {
                if self.line.pop().is_some() {
                    let _ = err.write_all(b"\x08 \x08");
                }
            }
            _ => {
                self.line.push(byte as char);
                let _ = err.write_all(&[byte]);
            }
        }
        true
    }
}
