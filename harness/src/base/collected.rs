//! What a child prints while it runs.

use super::deadline::Until;
use super::error::OrCannotRun as _;
use super::kept::{Kept, Log};
use super::thread;
use super::watch::Watch;
use anyhow::{Result, ensure};
use nix::errno::Errno;
use nix::fcntl::{FcntlArg, OFlag, fcntl};
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use std::io::{ErrorKind, PipeReader, PipeWriter, Read as _, Write as _};
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::Arc;

/// How much is read before others get to see it, bytes: a pipe holds no more, and one who prints for ever
/// must not keep the lock.
const AT_ONCE: usize = 64 << 10;

/// What a child has printed so far: a thread reads it, and whoever asks reads what is there by then.
pub struct Collected(Arc<Watch<Printed>>);

struct Printed {
    pipe: PipeReader,
    kept: Kept,
    log: Option<Log>,
    ended: bool,
}

/// How a wait for a child's output ended.
pub enum Waited<T> {
    /// It was printed.
    Found(T),
    /// The child closed its output without it.
    Ended,
    /// The deadline passed.
    Elapsed,
}

impl Printed {
    /// Takes what there is, up to [`AT_ONCE`].
    fn drain(&mut self) {
        let mut buffer = [0; 16 << 10];
        let mut room = AT_ONCE;
        while room > 0 && !self.ended {
            match self.pipe.read(&mut buffer) {
                Ok(0) => self.ended = true,
                Ok(count) => {
                    let bytes = &buffer[..count];
                    self.kept.push(bytes);
                    if let Some(log) = &mut self.log {
                        // A log that cannot be written (disk full) must not decide a trial.
                        let _ = log.write_all(bytes);
                    }
                    room = room.saturating_sub(count);
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) if error.kind() == ErrorKind::WouldBlock => return,
                Err(_) => self.ended = true,
            }
        }
    }
}

impl Collected {
    /// A pipe for a child's output, of which `most` bytes are kept, and all in `log` up to its own bound. It
    /// is read until the child and all to whom it passed the pipe have closed it.
    ///
    /// # Errors
    /// [`super::error::CannotRun`]: the host has no room for a pipe or a thread.
    pub fn pipe(most: usize, log: Option<Log>) -> Result<(Collected, PipeWriter)> {
        let open = || -> Result<(PipeReader, PipeWriter, OwnedFd)> {
            let (pipe, writer) = std::io::pipe()?;
            // The other end has flags of its own.
            fcntl(&pipe, FcntlArg::F_SETFL(OFlag::O_NONBLOCK))?;
            let polled = pipe.as_fd().try_clone_to_owned()?;
            Ok((pipe, writer, polled))
        };
        let (pipe, writer, polled) =
            open().or_cannot_run(|| "make a pipe for a child's output".into())?;
        let printed = Arc::new(Watch::new(Printed {
            pipe,
            kept: Kept::new(most),
            log,
            ended: false,
        }));
        let theirs = Arc::clone(&printed);
        thread::start("child's output", move || {
            while !theirs.update(|printed| {
                printed.drain();
                printed.ended
            }) {
                let mut ready = [PollFd::new(polled.as_fd(), PollFlags::POLLIN)];
                match poll(&mut ready, PollTimeout::NONE) {
                    Ok(_) | Err(Errno::EINTR) => {}
                    // Out of kernel memory: what follows is read by whoever asks.
                    Err(_) => return,
                }
            }
        })?;
        Ok((Collected(printed), writer))
    }

    /// The text so far; where it is more than is kept, its beginning and its end.
    pub fn text(&self) -> String {
        let mut printed = self.0.lock();
        printed.drain();
        printed.kept.text()
    }

    /// As [`Collected::text`], all of it.
    ///
    /// # Errors
    /// When the child printed more than is kept.
    pub fn whole(&self) -> Result<String> {
        let text = self.text();
        let left_out = self.0.lock().kept.left_out();
        ensure!(
            left_out == 0,
            "it printed {left_out} bytes more than the {} that can be read; it begins: {}",
            text.len(),
            text.lines().next().unwrap_or_default()
        );
        Ok(text)
    }

    /// Waits until `look` finds something in the text so far.
    pub fn wait<T>(
        &self,
        until: impl Into<Until>,
        mut look: impl FnMut(&str) -> Option<T>,
    ) -> Waited<T> {
        let waited = self.0.wait(until, |printed| {
            printed.drain();
            match look(&printed.kept.text()) {
                Some(found) => Some(Waited::Found(found)),
                None => printed.ended.then_some(Waited::Ended),
            }
        });
        waited.unwrap_or(Waited::Elapsed)
    }

    /// Waits until the child has closed its output.
    pub fn wait_end(&self, until: impl Into<Until>) -> Waited<()> {
        let waited = self
            .0
            .wait(until, |printed| printed.ended.then_some(Waited::Ended));
        waited.unwrap_or(Waited::Elapsed)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::{Command, Stdio};
    use std::time::{Duration, Instant};

    const LONG: Duration = Duration::from_secs(60);

    #[test]
    fn what_was_printed_is_there_at_once() {
        let (collected, mut writer) = Collected::pipe(1 << 10, None).unwrap();
        for n in 0..200 {
            writer.write_all(b"x").unwrap();
            assert_eq!(collected.text().len(), n + 1);
        }
        assert!(matches!(
            collected.wait_end(Instant::now()),
            Waited::Elapsed
        ));
        drop(writer);
        assert!(matches!(
            collected.wait_end(Instant::now() + LONG),
            Waited::Ended
        ));
        assert_eq!(collected.whole().unwrap().len(), 200);
    }

    #[test]
    fn one_who_prints_for_ever_is_bounded_in_memory_and_on_disk() {
        let file = tempfile::NamedTempFile::new().unwrap();
        let log = Log::new(file.reopen().unwrap());
        let (collected, writer) = Collected::pipe(1 << 10, Some(log)).unwrap();
        let mut command = Command::new("yes");
        command.stdin(Stdio::null()).stdout(writer);
        let mut child = command.spawn().unwrap();
        drop(command);
        let deadline = Instant::now() + LONG;
        let more = || collected.whole().is_err();
        while !more() || file.as_file().metadata().unwrap().len() < super::super::kept::LOG {
            assert!(Instant::now() < deadline);
            std::thread::sleep(Duration::from_millis(1));
        }
        assert!(collected.text().len() < 2 << 10);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(matches!(
            collected.wait_end(Instant::now() + LONG),
            Waited::Ended
        ));
        assert!(file.as_file().metadata().unwrap().len() < super::super::kept::LOG + 100);
        let error = collected.whole().unwrap_err().to_string();
        assert!(error.ends_with("that can be read; it begins: y"), "{error}");
    }
}
