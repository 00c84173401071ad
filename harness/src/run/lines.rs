//! libtest's lines on stdout. libtest-mimic panics where a line cannot be written, so it writes into a
//! pipe, from which its lines are passed on for as long as stdout takes them.

use crate::base::error::{CannotRun, OrCannotRun};
use crate::base::{panics, thread};
use anyhow::bail;
use libtest_mimic::{Arguments, ColorSetting, Trial};
use report::{colour, out};
use std::io::{PipeWriter, Read};
use std::os::fd::AsRawFd;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::thread::JoinHandle;

/// Runs `trials` as libtest-mimic does. The verdicts are in the events, which know more kinds of them.
///
/// # Errors
/// When lines cannot be written to the file that the user named, or a thread not be started; the trials that have
/// begun end, but not all may have begun.
pub fn run(arguments: &mut Arguments, trials: Vec<Trial>) -> anyhow::Result<()> {
    // Where the user named a file, libtest-mimic writes to that.
    let passed_on = match arguments.logfile {
        None => Some(pass_on(arguments)?),
        Some(_) => None,
    };
    let ended = catch_unwind(AssertUnwindSafe(|| libtest_mimic::run(arguments, trials)));
    if let Some((writer, reading)) = passed_on {
        // The reader waits for the last writing end.
        drop(writer);
        let _ = reading.join();
    }
    match ended {
        Ok(_) => Ok(()),
        Err(panic) => bail!(CannotRun(format!(
            "libtest, which runs the trials, panicked: {}",
            panics::words(&*panic)
        ))),
    }
}

fn pass_on(arguments: &mut Arguments) -> anyhow::Result<(PipeWriter, JoinHandle<()>)> {
    let (mut reader, writer) = std::io::pipe().or_cannot_run(|| "make a pipe".into())?;
    let file = format!("/proc/self/fd/{}", writer.as_raw_fd());
    arguments.logfile = Some(file);
    // libtest-mimic would use no colours on a pipe.
    if matches!(arguments.color, None | Some(ColorSetting::Auto))
        && colour::wanted(&std::io::stdout())
    {
        arguments.color = Some(ColorSetting::Always);
    }
    let reading = thread::start("lines", move || {
        let mut buffer = [0; 4096];
        while let Ok(count @ 1..) = reader.read(&mut buffer) {
            out::write(std::io::stdout(), &buffer[..count]);
        }
    })?;
    Ok((writer, reading))
}

/// What `--list` prints: `NAME: test`, as nextest reads it.
pub fn list<'t>(names: impl Iterator<Item = &'t str>) -> String {
    names.fold(String::new(), |text, name| text + name + ": test\n")
}
