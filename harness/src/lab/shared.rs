//! A lab that several runs share: `cargo xtask lab up`, then any number of processes, as under
//! nextest, which has one a trial.
//!
//! A process keeps the lab and listens on a socket beside its transcripts. A connection is a trial:
//! the lines are those of [`super::protocol`], passed on with the lab's own number for the trial. So
//! whoever asks for the trial also answers for its checkpoints, as with a lab of its own.

use super::protocol::{FromLab, ToLab, Up};
use super::vm::Lab;
use super::{LAB_SILENT, LAB_UP, describe, start};
use crate::error::{CannotRun, OrCannotRun};
use crate::matrix::Backend;
use crate::run::context::Context;
use crate::run::settings::Settings;
use anyhow::{Context as _, Result, bail};
use nix::fcntl::{Flock, FlockArg};
use report::errln;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{BufRead, BufReader, Write};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// How often the keeper looks whether its lab lives.
const LOOK: Duration = Duration::from_millis(500);

/// What a connection is for; its first line.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Wish {
    /// To run a trial; lines of [`ToLab`] follow.
    Trial,
    /// To know about it.
    Status,
    /// A shell inside; bytes follow.
    Shell,
    /// To end it.
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

/// A connection to the shared lab with that setting, where one is up, and its first word.
///
/// # Errors
/// One that was started by an older program.
pub fn connect(
    settings: &Settings,
    zcopytx: bool,
    wish: Wish,
) -> Result<Option<(UnixStream, BufReader<UnixStream>, Up)>> {
    let directory = directory(settings, zcopytx);
    let Ok(mut stream) = UnixStream::connect(socket(&directory)) else {
        return Ok(None);
    };
    if wish == Wish::Trial {
        expect_same_program(&directory)?;
    }
    let mut reader = BufReader::new(stream.try_clone()?);
    writeln!(stream, "{}", serde_json::to_string(&wish)?)?;
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let up = serde_json::from_str(&line)
        .with_context(|| format!("the lab in {} says {line:?}", directory.display()))
        .or_cannot_run(|| "speak with the lab that is up".into())?;
    Ok(Some((stream, reader, up)))
}

/// The program inside is the one that was there when the lab was started.
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

/// Starts a lab and keeps it until somebody wants it down. `ready` is told of it when it is up.
///
/// # Errors
/// One that is up already; a lab that does not come up, or ends.
pub fn keep(
    context: &Context,
    zcopytx: bool,
    memory_mib: u32,
    ready: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let directory = directory(&context.settings, zcopytx);
    std::fs::create_dir_all(&directory)
        .or_cannot_run(|| format!("create {}", directory.display()))?;
    let lock = File::create(directory.join("lock"))
        .or_cannot_run(|| format!("write to {}", directory.display()))?;
    let Ok(_lock) = Flock::lock(lock, FlockArg::LockExclusiveNonblock) else {
        bail!(CannotRun("it is up already".into()));
    };
    let socket = socket(&directory);
    // A keeper that was killed left it: nobody listens there.
    let _ = std::fs::remove_file(&socket);
    let lab = Arc::new(start(zcopytx, context, &directory, memory_mib)?);
    let up = lab
        .wait_up(LAB_UP.start())
        .or_cannot_run(|| "start the lab".into())?;
    let listener = UnixListener::bind(&socket)
        .or_cannot_run(|| format!("listen on {} (at most 107 bytes)", socket.display()))?;
    let seconds = lab.started.elapsed().as_secs_f64();
    ready(&format!("{}, up in {seconds:.1} s", describe(&up)))?;
    let (watched, place) = (lab.clone(), socket.clone());
    std::thread::Builder::new()
        .name("watch".into())
        .spawn(move || {
            let limit = LAB_SILENT.start().span();
            while watched.is_alive() && watched.silence() <= limit {
                std::thread::sleep(LOOK);
            }
            errln!("Error: the lab ended: {:#}", watched.death());
            // Whoever is connected is told by the end of the connection.
            let _ = std::fs::remove_file(&place);
            std::process::exit(3);
        })
        .or_cannot_run(|| "start a thread".into())?;
    for stream in listener.incoming() {
        let stream = stream.or_cannot_run(|| "take a connection".into())?;
        let (lab, up, place) = (lab.clone(), up.clone(), socket.clone());
        std::thread::Builder::new()
            .name("connection".into())
            .spawn(move || {
                // An error: whoever was there has gone.
                if serve(&stream, &lab, &up).unwrap_or(false) {
                    let _ = std::fs::remove_file(&place);
                    std::process::exit(0);
                }
            })
            .or_cannot_run(|| "start a thread".into())?;
    }
    Ok(())
}

/// Serves a connection; whether the lab is to end.
fn serve(stream: &UnixStream, lab: &Lab, up: &Up) -> Result<bool> {
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let wish: Wish = serde_json::from_str(&line)?;
    let mut writer = stream.try_clone()?;
    writeln!(writer, "{}", serde_json::to_string(up)?)?;
    match wish {
        Wish::Status => Ok(false),
        Wish::Down => Ok(true),
        Wish::Shell => {
            lab.shell(stream)?;
            Ok(false)
        }
        Wish::Trial => {
            let (number, heard) = lab.trial();
            let told = std::thread::spawn(move || {
                for message in heard {
                    let line = serde_json::to_string(&message)?;
                    writeln!(writer, "{line}")?;
                    if matches!(message, FromLab::Ended { .. }) {
                        break;
                    }
                }
                // Also where the lab has ended: there is no more to come.
                writer.shutdown(std::net::Shutdown::Both)?;
                anyhow::Ok(())
            });
            for line in reader.lines().map_while(Result::ok) {
                let message = match serde_json::from_str(&line)? {
                    ToLab::Run { work, .. } => ToLab::Run {
                        trial: number,
                        work,
                    },
                    ToLab::Granted { grant, .. } => ToLab::Granted {
                        trial: number,
                        grant,
                    },
                    ToLab::Alive => continue,
                };
                lab.say(&message)?;
            }
            lab.forget(number);
            let _ = told.join();
            Ok(false)
        }
    }
}
