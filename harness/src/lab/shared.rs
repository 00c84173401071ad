//! A lab that several runs share: `cargo xtask lab up` starts it, then any number of processes use it,
//! as under nextest, which has a process for each trial.
//!
//! One process keeps the lab and listens on a socket beside its transcripts. For each trial, a process
//! makes a connection; its lines are those of [`super::protocol`], passed on with the lab's own number
//! for the trial. So the process that runs the trial also provides its checkpoints, as with a lab of its
//! own.

use super::protocol::{FromLab, Hello, ToLab};
use super::start::start;
use super::vm::Lab;
use super::{LAB_SILENT, LAB_UP, Outside, describe};
use crate::base::error::{CannotRun, OrCannotRun};
use crate::base::lines::{Lines, MESSAGE};
use crate::base::thread;
use crate::matrix::Backend;
use crate::settings::Settings;
use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use report::errln;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::Write;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the keeper looks whether its lab lives.
const LOOK: Duration = Duration::from_millis(500);

/// What a connection is for: the first line that is sent on it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Request {
    /// To run a trial; lines of [`ToLab`] follow.
    Trial,
    /// To learn what the lab says of its kernel.
    Status,
    /// A shell inside; bytes follow.
    Shell,
    /// To end the lab.
    Down,
}

/// The backend whose trials a lab with that setting is for.
pub fn name(zcopytx: bool) -> &'static str {
    match zcopytx {
        false => Backend::Vhost.name(),
        true => Backend::VhostZcopy.name(),
    }
}

/// The directory of the lab with that setting.
fn directory(settings: &Settings, zcopytx: bool) -> PathBuf {
    settings.dir.join("lab").join(name(zcopytx))
}

fn socket(directory: &Path) -> PathBuf {
    directory.join("socket")
}

/// A connection to the shared lab with that setting, and what the lab says of its kernel; nothing where
/// no such lab is up.
///
/// # Errors
/// A lab that was started by an older program.
pub fn connect(
    settings: &Settings,
    zcopytx: bool,
    request: Request,
) -> Result<Option<(UnixStream, Lines<UnixStream>, Hello)>> {
    let directory = directory(settings, zcopytx);
    let Ok(mut stream) = UnixStream::connect(socket(&directory)) else {
        return Ok(None);
    };
    if request == Request::Trial {
        expect_same_program(&directory)?;
    }
    let mut lines = Lines::new(stream.try_clone()?, MESSAGE);
    let mut ask = || -> Result<Hello> {
        writeln!(stream, "{}", serde_json::to_string(&request)?)?;
        let line = lines.text()?.unwrap_or_default();
        serde_json::from_str(&line)
            .with_context(|| format!("the lab in {} says {line:?}", directory.display()))
    };
    let hello = ask().or_cannot_run(|| "speak with the lab that is up".into())?;
    Ok(Some((stream, lines, hello)))
}

/// The program that runs inside is the one of the time when the lab was started.
fn expect_same_program(directory: &Path) -> Result<()> {
    let time = |path: &Path| path.metadata().and_then(|meta| meta.modified()).ok();
    let built = std::env::current_exe().ok().and_then(|exe| time(&exe));
    if built > time(&socket(directory)) {
        bail!(CannotRun(
            "the lab that is up was started before this program was built: run `cargo xtask lab down`, \
             then `cargo xtask lab up`"
                .into()
        ));
    }
    Ok(())
}

/// Starts a lab and keeps it until [`Request::Down`]. `ready` is called with a line about the lab once it
/// is up.
///
/// # Errors
/// A lab with that setting that is up already; a lab that does not come up, or ends.
pub fn keep(
    outside: &Outside,
    zcopytx: bool,
    memory_mib: u32,
    ready: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let directory = directory(outside.settings, zcopytx);
    std::fs::create_dir_all(&directory)
        .or_cannot_run(|| format!("create {}", directory.display()))?;
    let lock = File::create(directory.join("lock"))
        .or_cannot_run(|| format!("write to {}", directory.display()))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!(CannotRun("it is up already".into()));
    };
    let socket = socket(&directory);
    // A process that kept a lab and was killed left its socket behind.
    let _ = std::fs::remove_file(&socket);
    let lab = Arc::new(start(
        zcopytx,
        outside,
        &directory,
        None,
        memory_mib,
        Arc::default(),
    )?);
    let hello = lab
        .wait_up(LAB_UP.start())
        .or_cannot_run(|| "start the lab".into())?;
    let listener = UnixListener::bind(&socket)
        .or_cannot_run(|| format!("listen on {} (at most 107 bytes)", socket.display()))?;
    let seconds = lab.started.elapsed().as_secs_f64();
    ready(&format!("{}, up in {seconds:.1} s", describe(&hello)))?;
    let (watched, path) = (lab.clone(), socket.clone());
    thread::start("watch", move || {
        let limit = LAB_SILENT.start().span();
        while watched.is_alive() && watched.silence() <= limit {
            std::thread::sleep(LOOK);
        }
        errln!("Error: the lab ended: {:#}", watched.death());
        // Connected processes see the end of their connection.
        let _ = std::fs::remove_file(&path);
        std::process::exit(3);
    })?;
    for stream in listener.incoming() {
        let stream = stream.or_cannot_run(|| "take a connection".into())?;
        let (lab, hello, path) = (lab.clone(), hello.clone(), socket.clone());
        let served = thread::start("connection", move || {
            // An error means that the other side has gone.
            if serve(&stream, &lab, &hello).unwrap_or(false) {
                let _ = std::fs::remove_file(&path);
                std::process::exit(0);
            }
        });
        // The other side sees its connection closed; those that are served go on.
        if let Err(error) = served {
            errln!("Error: {error:#}");
        }
    }
    Ok(())
}

/// Serves a connection; true if the lab is to end.
fn serve(stream: &UnixStream, lab: &Lab, hello: &Hello) -> Result<bool> {
    let mut lines = Lines::new(stream.try_clone()?, MESSAGE);
    let line = lines.text()?.unwrap_or_default();
    let request: Request = serde_json::from_str(&line)?;
    let mut writer = stream.try_clone()?;
    writeln!(writer, "{}", serde_json::to_string(hello)?)?;
    match request {
        Request::Status => Ok(false),
        Request::Down => Ok(true),
        Request::Shell => {
            lab.shell(stream)?;
            Ok(false)
        }
        Request::Trial => {
            let (number, heard) = lab.trial();
            let passing_on = thread::start("passing on", move || {
                for message in heard {
                    let line = serde_json::to_string(&message)?;
                    writeln!(writer, "{line}")?;
                    if matches!(message, FromLab::Ended { .. }) {
                        break;
                    }
                }
                // The other side sees the end here too where the lab has ended.
                writer.shutdown(std::net::Shutdown::Both)?;
                anyhow::Ok(())
            })?;
            while let Ok(Some(line)) = lines.line() {
                let message = match serde_json::from_slice(line)? {
                    ToLab::Run { job, .. } => ToLab::Run { trial: number, job },
                    ToLab::Answered { answer, .. } => ToLab::Answered {
                        trial: number,
                        answer,
                    },
                    ToLab::Alive { .. } => continue,
                };
                lab.say(&message)?;
            }
            lab.forget(number);
            let _ = passing_on.join();
            Ok(false)
        }
    }
}
