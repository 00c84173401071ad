//! A command that is run to its end, which must come in time, for what it prints, which has a bound.

use super::cpu;
use super::deadline::{Deadline, Limit};
use super::words::quoted_line;
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::sys::signal::{Signal, killpg};
use nix::unistd::Pid;
use std::io::{ErrorKind, Read};
use std::os::fd::AsFd;
use std::process::{Child, ExitStatus, Output};
use std::time::Duration;

/// What a short command may print on each stream, bytes: the longest answer, QEMU's list of devices, has some
/// 30 KiB.
const MOST: usize = 4 << 20;

/// Between two looks whether a command that has closed its output has ended: mostly it has.
const LOOK: Duration = Duration::from_millis(1);

/// Reads what `child` prints on its pipes until it ends, and counts its time. A child that takes longer than
/// `limit` or prints without end is killed; with its process group, where it leads one. There is no thread in
/// this, which a host might refuse.
///
/// # Errors
/// [`super::deadline::Missed`], with what it printed; more than [`MOST`] bytes; pipes that cannot be read.
pub fn of(mut child: Child, limit: Limit) -> Result<Output> {
    drop(child.stdin.take());
    let mut stdout = Pipe::new(child.stdout.take());
    let mut stderr = Pipe::new(child.stderr.take());
    let deadline = limit.start();
    let ended = read_both(&mut stdout, &mut stderr, deadline).and_then(|read| match read {
        true => await_end(&mut child, deadline),
        false => Ok(None),
    });
    let status = match ended {
        Ok(Some(status)) => status,
        Ok(None) => {
            end(&mut child);
            let printed = [stdout.bytes, stderr.bytes].concat();
            return Err(deadline.missed(match quoted_line(&printed) {
                text if text.is_empty() => "it printed nothing".to_owned(),
                text => format!("it printed `{text}`"),
            }));
        }
        Err(error) => {
            end(&mut child);
            return Err(error);
        }
    };
    Ok(Output {
        status,
        stdout: stdout.bytes,
        stderr: stderr.bytes,
    })
}

struct Pipe<R> {
    /// Until its end.
    open: Option<R>,
    bytes: Vec<u8>,
}

impl<R: Read + AsFd> Pipe<R> {
    fn new(open: Option<R>) -> Pipe<R> {
        Pipe {
            open,
            bytes: Vec::new(),
        }
    }

    fn fd(&self) -> Option<PollFd<'_>> {
        let open = self.open.as_ref()?;
        Some(PollFd::new(open.as_fd(), PollFlags::POLLIN))
    }

    /// Reads once, which does not wait where poll has said so.
    fn read(&mut self) -> Result<()> {
        let Some(open) = &mut self.open else {
            return Ok(());
        };
        let mut buffer = [0; 16 << 10];
        match open.read(&mut buffer) {
            Ok(0) => self.open = None,
            Ok(count) => self.bytes.extend_from_slice(&buffer[..count]),
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(error) => return Err(error).context("cannot read what it prints"),
        }
        if self.bytes.len() > MOST {
            bail!(
                "it printed more than {MOST} bytes, beginning with `{}`",
                quoted_line(&self.bytes)
            );
        }
        Ok(())
    }
}

/// Until both are at their end, or the time is up; whether they are.
fn read_both<A: Read + AsFd, B: Read + AsFd>(
    one: &mut Pipe<A>,
    other: &mut Pipe<B>,
    deadline: Deadline,
) -> Result<bool> {
    while one.open.is_some() || other.open.is_some() {
        let Some(left) = deadline.left() else {
            return Ok(false);
        };
        let mut fds: Vec<PollFd> = [one.fd(), other.fd()].into_iter().flatten().collect();
        let timeout = PollTimeout::try_from(left + LOOK).unwrap_or(PollTimeout::MAX);
        match poll(&mut fds, timeout) {
            Ok(_) | Err(Errno::EINTR) => {}
            Err(error) => return Err(error).context("cannot wait for what it prints"),
        }
        let mut ready = fds.iter().map(|fd| fd.any() == Some(true));
        let first = one.open.is_some() && ready.next() == Some(true);
        let second = other.open.is_some() && ready.next() == Some(true);
        drop(ready);
        drop(fds);
        if first {
            one.read()?;
        }
        if second {
            other.read()?;
        }
    }
    Ok(true)
}

/// Its status; none when the time is up.
fn await_end(child: &mut Child, deadline: Deadline) -> Result<Option<ExitStatus>> {
    loop {
        let status = cpu::try_wait(child).context("cannot wait for it")?;
        if status.is_some() || deadline.left().is_none() {
            return Ok(status);
        }
        std::thread::sleep(LOOK);
    }
}

fn end(child: &mut Child) {
    let pid = Pid::from_raw(child.id().cast_signed());
    // It has not been waited for, so its process id is still its own.
    if nix::unistd::getpgid(Some(pid)) == Ok(pid) {
        // It fails only where all of the group have ended.
        let _ = killpg(pid, Signal::SIGKILL);
    }
    cpu::end(child);
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::base::deadline::Missed;
    use crate::base::error::find;
    use std::os::unix::process::CommandExt as _;
    use std::process::{Command, Stdio};
    use std::time::Instant;

    const SHORT: Limit = Limit {
        what: "a test's command",
        seconds: 0.3,
    };
    const LONG: Limit = Limit {
        what: "a test's command",
        seconds: 60.0,
    };

    fn run(script: &str, limit: Limit) -> Result<Output> {
        let mut command = Command::new("sh");
        command.args(["-c", script]).process_group(0);
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        of(command.spawn().unwrap(), limit)
    }

    fn is_running(command: &str) -> bool {
        let ps = Command::new("ps").args(["-eo", "args"]).output().unwrap();
        let listed = String::from_utf8_lossy(&ps.stdout).into_owned();
        listed.lines().any(|line| line == command)
    }

    #[test]
    fn both_pipes_are_read_however_much_there_is() {
        let flood = "head -c 300000 /dev/zero >&2; head -c 300000 /dev/zero; exit 3";
        let output = run(flood, LONG).unwrap();
        assert_eq!(
            (output.stdout.len(), output.stderr.len()),
            (300_000, 300_000)
        );
        assert_eq!(output.status.code(), Some(3));
    }

    #[test]
    fn one_that_does_not_end_is_killed_with_its_children() {
        for script in [
            "echo asked; sleep 96.5",
            "echo asked; exec >&- 2>&-; sleep 96.5",
            "echo asked; sleep 96.5 &",
        ] {
            let begun = Instant::now();
            let error = run(script, SHORT).unwrap_err();
            assert!(find::<Missed>(&error).is_some(), "{script}: {error:#}");
            assert!(error.to_string().ends_with("it printed `asked`"), "{error}");
            assert!(begun.elapsed() < Duration::from_secs(30));
        }
        // What is killed still has to get a processor, to end.
        let begun = Instant::now();
        while is_running("sleep 96.5") {
            assert!(begun.elapsed() < Duration::from_secs(30), "it lives on");
            std::thread::sleep(LOOK);
        }
    }

    #[test]
    fn one_that_prints_for_ever_is_told_and_killed() {
        let begun = Instant::now();
        let error = run("exec yes", LONG).unwrap_err().to_string();
        let told = "it printed more than 4194304 bytes, beginning with `y y y";
        assert!(error.starts_with(told), "{error}");
        assert!(begun.elapsed() < Duration::from_secs(30));
    }
}
