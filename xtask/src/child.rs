//! Children that never outlive us, and signals passed on to them.

use anyhow::{Context, Result, anyhow, bail};
use nix::sys::prctl;
use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, getppid};
use report::{outln, signals};
use signal_hook::consts::SIGCHLD;
use signal_hook::iterator::Signals;
use std::fmt;
use std::io::{self, BufRead, BufReader};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::Path;
use std::process::{Child, Command, ExitStatus, Stdio};
use std::thread::JoinHandle;

/// SIGINT, SIGTERM or SIGHUP came while a child ran; the child has ended.
#[derive(Debug)]
pub struct Interrupted;

impl fmt::Display for Interrupted {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("interrupted")
    }
}

impl std::error::Error for Interrupted {}

/// A started child, and the signals that are passed on to it.
pub struct Running {
    child: Child,
    signals: Signals,
}

impl Running {
    /// Starts `command`. The kernel sends it SIGTERM if we die first.
    pub fn start(command: &mut Command) -> Result<Self> {
        // Signals are listened to before the child starts, so that none is missed.
        let heeded = signals::that_end().into_iter().chain([SIGCHLD]);
        let signals = Signals::new(heeded).context("cannot listen to signals")?;
        let us = Pid::this();
        // SAFETY: between fork and exec; prctl and getppid are plain system calls, no allocation.
        unsafe {
            command.pre_exec(move || {
                prctl::set_pdeathsig(Signal::SIGTERM)?;
                // We may have died before prctl.
                if getppid() == us {
                    Ok(())
                } else {
                    Err(io::ErrorKind::Interrupted.into())
                }
            });
        }
        let child = command
            .spawn()
            .with_context(|| format!("cannot start {}", command.get_program().display()))?;
        Ok(Running { child, signals })
    }

    /// The child, for its pipes.
    pub fn child(&mut self) -> &mut Child {
        &mut self.child
    }

    /// Waits for the child's end. SIGINT, SIGTERM and SIGHUP are passed on to it as SIGTERM, upon the second of which
    /// it ends at once, and the result is then [`Interrupted`].
    pub fn wait(mut self) -> Result<ExitStatus> {
        let mut interrupted = false;
        loop {
            if let Some(status) = self.child.try_wait().context("cannot wait for a child")? {
                // A signal that the terminal sent to the whole group may still be pending here.
                interrupted |= self.signals.pending().any(|s| s != SIGCHLD);
                return if interrupted {
                    Err(Interrupted.into())
                } else {
                    Ok(status)
                };
            }
            for signal in self.signals.wait() {
                if signal != SIGCHLD {
                    interrupted = true;
                    let pid = Pid::from_raw(self.child.id().try_into()?);
                    // ESRCH: the child has ended by itself, and try_wait will say so.
                    let _ = kill(pid, Signal::SIGTERM);
                }
            }
        }
    }
}

/// Runs `command` with our terminal and waits for it.
pub fn run(command: &mut Command) -> Result<ExitStatus> {
    Running::start(command)?.wait()
}

/// Runs `command` without a terminal; returns what it wrote to stdout and stderr, which `echo`
/// shows as it comes.
pub fn output(mut command: Command, echo: bool) -> Result<(ExitStatus, String)> {
    let (reader, writer) = io::pipe().context("cannot make a pipe")?;
    command
        .stdin(Stdio::null())
        .stdout(writer.try_clone()?)
        .stderr(writer);
    let running = Running::start(&mut command)?;
    // `command` holds the pipe's writing end, and the reader waits until all of these are closed.
    drop(command);
    let reading = thread("output", move || {
        let mut text = String::new();
        for line in BufReader::new(reader)
            .split(b'\n')
            .map_while(io::Result::ok)
        {
            let line = String::from_utf8_lossy(&line);
            if echo {
                outln!("{line}");
            }
            text.push_str(&line);
            text.push('\n');
        }
        text
    })?;
    let status = running.wait()?;
    let text = reading
        .join()
        .map_err(|_| anyhow!("lost a child's output"))?;
    Ok((status, text))
}

/// Starts a thread; where the host has no room for one, that is an error and no panic.
pub fn thread<T: Send + 'static>(
    name: &str,
    work: impl FnOnce() -> T + Send + 'static,
) -> Result<JoinHandle<T>> {
    let builder = std::thread::Builder::new().name(name.to_owned());
    builder.spawn(work).context("cannot start a thread")
}

/// As [`run`], but anything other than exit code 0 is an error that begins with `what`.
pub fn check(what: &str, command: &mut Command) -> Result<()> {
    let status = run(command)?;
    if !status.success() {
        bail!("{what} failed: {} ended with {status}", describe(command));
    }
    Ok(())
}

/// The code to end with when a child ended thus, as a shell would say it.
pub fn code(status: ExitStatus) -> u8 {
    let code = status.code().or(status.signal().map(|s| 128 + s));
    code.and_then(|c| u8::try_from(c).ok())
        .unwrap_or(crate::CANNOT_RUN)
}

/// The command as one would type it (for messages; no quoting).
pub fn describe(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let mut words = vec![program.file_name().unwrap_or_default().to_string_lossy()];
    words.extend(command.get_args().map(|a| a.to_string_lossy()));
    words.join(" ")
}

/// The cargo that runs us.
pub fn cargo(root: &Path) -> Command {
    let mut command = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
    command.current_dir(root);
    command
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn exit_codes_pass_through() {
        for expected in [0u8, 1, 2, 3, 130] {
            let status = run(Command::new("sh").args(["-c", &format!("exit {expected}")])).unwrap();
            assert_eq!(code(status), expected);
        }
        let status = run(Command::new("sh").args(["-c", "kill -9 $$"])).unwrap();
        assert_eq!(code(status), 137);
    }

    #[test]
    fn both_streams_are_kept() {
        let mut command = Command::new("sh");
        command.args(["-c", "echo out; echo err >&2; exit 4"]);
        let (status, text) = output(command, false).unwrap();
        assert_eq!((code(status), text.as_str()), (4, "out\nerr\n"));
    }

    #[test]
    fn a_missing_program_is_named() {
        let error = run(&mut Command::new("/nonexistent/program")).unwrap_err();
        assert!(
            error.to_string().contains("/nonexistent/program"),
            "{error:#}"
        );
    }
}
