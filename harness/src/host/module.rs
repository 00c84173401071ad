//! Holds vhost_net at one value of `experimental_zcopytx`, which can be set only as the module is loaded,
//! and puts the module back as it was; only where the user gives `--allow-module-reload`.
//!
//! # Holds
//! A trial on this machine takes a [`Hold`] for as long as it runs: a shared lock on one file, while the
//! parameter reads as the trial needs it. (The lock is flock's, which works between threads as between
//! the processes of nextest.) Where the parameter reads otherwise, a trial waits until all trials with
//! the other value have ended and it gets the lock exclusively; then it reloads the module. An exclusive
//! lock does not become a shared one in one step, so the trial then looks at the parameter once more;
//! other trials that wait for the same value go on as soon as the parameter has it.
//!
//! # Putting back
//! Before its first reload a process starts a *keeper*: this program again, in a process group of its
//! own, blocked on a pipe whose other end only this process has. The pipe ends when the run does,
//! whether by itself, by Ctrl-C or by `kill -9`. Then the keeper takes the lock exclusively, which waits
//! for all holds of all processes, and puts the module back.
//!
//! The locked file says how the module was: a process that reloads it writes that down, unless the file
//! holds it already; a keeper that puts the module back empties the file. So among several processes the
//! file holds what was there before the first of them, and the first keeper that gets the lock puts the
//! module back for all processes that have begun so far. What was written before this machine booted is
//! ignored.
//!
//! A process that ends by itself waits for its keeper; under nextest, which has a process for each trial,
//! this may last as long as the trials beside it.

use super::kernel_facts::{ZCOPYTX, switch};
use crate::base::child::{self, pdeath_command};
use crate::base::error::{CannotRun, OrCannotRun};
use anyhow::{Context as _, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::unistd::geteuid;
use parking_lot::Mutex;
use report::errln;
use serde::{Deserialize, Serialize};
use std::fs::{self, File};
use std::io::{self, Read as _, Seek as _, Write as _};
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

/// The module, and its parameter.
const MODULE: &str = "vhost_net";
const PARAMETER: &str = "experimental_zcopytx";

/// This program's first argument where it is a keeper; the second is the [`Module`] as JSON. No trial's
/// name can hold a `/`.
pub const KEEPER: &str = "nicmatrix/keeper";

/// The lock of all who may reload the module of this machine, whatever directory their runs are in.
const LOCK: &str = "/run/nicmatrix/vhost_net.lock";

/// How long a module without a [`Hold`] may be in use, by a VM that is just ending.
const IN_USE: Duration = Duration::from_secs(30);
/// Between two tries meanwhile.
const AGAIN: Duration = Duration::from_millis(100);
/// What modprobe then says, in its own or in the kernel's words.
const IN_USE_WORDS: [&str; 2] = ["is in use", "temporarily unavailable"];

/// Differs from boot to boot.
const BOOT_ID: &str = "/proc/sys/kernel/random/boot_id";

/// vhost_net, and by what it is reloaded.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Module {
    modprobe: PathBuf,
    /// The file that reads as the parameter; not there when the module is not loaded.
    parameter: PathBuf,
    lock: PathBuf,
    /// This program as a keeper, less the module.
    keeper: Vec<String>,
}

/// While this exists, the module is not reloaded.
#[derive(Debug)]
pub struct Hold {
    _lock: Flock<File>,
}

/// How the module was before it was reloaded, in the locked file.
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Found {
    boot: String,
    /// The parameter's value; nothing where the module was not loaded.
    value: Option<String>,
}

impl Module {
    /// This kernel's. Root's lock is this machine's; another user, who cannot reload it, has one in `host_cache`.
    pub fn of_kernel(host_cache: &Path) -> Module {
        let lock = match geteuid().is_root() {
            true => LOCK.into(),
            false => host_cache.join("vhost_net.lock"),
        };
        Module {
            modprobe: "modprobe".into(),
            parameter: ZCOPYTX.into(),
            lock,
            // By this name it is the same program after it was built anew.
            keeper: vec!["/proc/self/exe".into(), KEEPER.into()],
        }
    }

    /// Keeps the module as it is, however that is.
    ///
    /// # Errors
    /// [`CannotRun`]: a lock that cannot be taken.
    pub fn still(&self) -> Result<Hold> {
        let _lock = self.lock(FlockArg::LockShared)?;
        Ok(Hold { _lock })
    }

    /// Waits for the lock.
    fn lock(&self, how: FlockArg) -> Result<Flock<File>> {
        Flock::lock(self.open()?, how)
            .map_err(|(_, errno)| errno)
            .or_cannot_run(|| self.cannot("lock"))
    }

    /// The exclusive lock; nothing where another holds the lock.
    fn try_alone(&self) -> Result<Option<Flock<File>>> {
        match Flock::lock(self.open()?, FlockArg::LockExclusiveNonblock) {
            Ok(lock) => Ok(Some(lock)),
            Err((_, Errno::EWOULDBLOCK)) => Ok(None),
            Err((_, errno)) => Err(errno).or_cannot_run(|| self.cannot("lock")),
        }
    }

    /// The file, opened anew, so that threads lock it apart from each other.
    fn open(&self) -> Result<File> {
        let directory = self.lock.parent().unwrap_or(Path::new("."));
        let mut options = File::options();
        options.read(true).write(true).create(true).truncate(false);
        fs::create_dir_all(directory)
            .and_then(|()| options.open(&self.lock))
            .or_cannot_run(|| self.cannot("open"))
    }

    fn cannot(&self, what: &str) -> String {
        format!("{what} {}", self.lock.display())
    }

    /// The parameter's value; None where the module is not loaded.
    fn value(&self) -> Option<String> {
        let text = fs::read_to_string(&self.parameter).ok()?;
        Some(match switch(text.trim()) {
            Some(on) => word(on).to_owned(),
            None => text.trim().to_owned(),
        })
    }

    /// Reloads the module with that value, or unloads it.
    fn reload(&self, value: Option<&str>) -> Result<()> {
        let cannot = || match value {
            Some(value) => format!("reload {MODULE} with {PARAMETER}={value}"),
            None => format!("unload {MODULE}"),
        };
        self.try_reload(value).or_cannot_run(cannot)
    }

    fn try_reload(&self, value: Option<&str>) -> Result<()> {
        let modprobe = |arguments: &[&str]| {
            let mut command = pdeath_command(&self.modprobe);
            child::run(command.args(arguments), "kmod", "")
        };
        let deadline = Instant::now() + IN_USE;
        while let Err(error) = modprobe(&["-r", MODULE]) {
            let text = error.to_string();
            let in_use = IN_USE_WORDS.iter().any(|words| text.contains(words));
            if !in_use || Instant::now() >= deadline {
                return Err(error);
            }
            std::thread::sleep(AGAIN);
        }
        let Some(value) = value else {
            return Ok(());
        };
        modprobe(&[MODULE, &format!("{PARAMETER}={value}")])?;
        match self.value() {
            Some(reads) if reads == value => Ok(()),
            Some(reads) => Err(anyhow!("it is loaded, but {PARAMETER} reads {reads}")),
            None => {
                let file = self.parameter.display();
                Err(anyhow!("it is loaded, but there is no {file}"))
            }
        }
    }

    /// Writes down what there is, unless something is written down already.
    fn write_down(&self, lock: &mut File) -> Result<()> {
        if found(lock)?.is_some() {
            return Ok(());
        }
        let found = Found {
            boot: boot_id()?,
            value: self.value(),
        };
        let text = serde_json::to_string(&found)?;
        lock.set_len(0)
            .and_then(|()| lock.rewind())
            .and_then(|()| lock.write_all(text.as_bytes()))
            .or_cannot_run(|| self.cannot("write to"))
    }

    /// Waits until there is no [`Hold`], and puts the module back as the file says, if it says anything.
    fn put_back(&self) -> Result<()> {
        let mut lock = self.lock(FlockArg::LockExclusive)?;
        let Some(found) = found(&mut lock)? else {
            return Ok(());
        };
        if self.value() != found.value {
            self.reload(found.value.as_deref())?;
        }
        lock.set_len(0).or_cannot_run(|| self.cannot("write to"))
    }
}

/// What is written down in the locked file, since this machine booted.
fn found(lock: &mut File) -> Result<Option<Found>> {
    let mut text = String::new();
    lock.rewind()
        .and_then(|()| lock.read_to_string(&mut text))
        .or_cannot_run(|| format!("read what {MODULE} was"))?;
    let boot = boot_id()?;
    // What cannot be read was not written whole: then nothing was reloaded after it.
    let found: Option<Found> = serde_json::from_str(&text).ok();
    Ok(found.filter(|found| found.boot == boot))
}

fn boot_id() -> Result<String> {
    let text = fs::read_to_string(BOOT_ID).or_cannot_run(|| format!("read {BOOT_ID}"))?;
    Ok(text.trim().to_owned())
}

fn word(zcopytx: bool) -> &'static str {
    match zcopytx {
        false => "0",
        true => "1",
    }
}

/// Reloads the module for the trials of this process.
pub struct Reloader {
    module: Module,
    keeper: Mutex<Option<Child>>,
    /// How often one who wanted the other value found the module held.
    #[cfg(test)]
    turned_away: std::sync::atomic::AtomicU32,
}

impl Reloader {
    /// Nothing is held or reloaded yet.
    pub fn new(module: Module) -> Reloader {
        Reloader {
            module,
            keeper: Mutex::default(),
            #[cfg(test)]
            turned_away: Default::default(),
        }
    }

    /// Holds the module with that value. Waits for all who hold the other one.
    ///
    /// # Errors
    /// [`CannotRun`]: a module that cannot be reloaded, with modprobe's words; a parameter that does not
    /// read as wanted after.
    pub fn hold(&self, zcopytx: bool) -> Result<Hold> {
        let Reloader { module, .. } = self;
        let wanted = word(zcopytx);
        let as_wanted = || module.value().is_some_and(|value| value == wanted);
        loop {
            if as_wanted() {
                let hold = module.still()?;
                // Before it was held, another may have reloaded it.
                if as_wanted() {
                    return Ok(hold);
                }
            }
            let Some(mut lock) = module.try_alone()? else {
                #[cfg(test)]
                (self.turned_away).fetch_add(1, std::sync::atomic::Ordering::Relaxed);
                // It comes free, or the parameter comes to read as wanted: no one call waits for both.
                std::thread::sleep(AGAIN);
                continue;
            };
            if !as_wanted() {
                self.start_keeper()?;
                module.write_down(&mut lock)?;
                module.reload(Some(wanted))?;
            }
        }
    }

    /// Starts the keeper of this process, unless it is there.
    fn start_keeper(&self) -> Result<()> {
        let mut keeper = self.keeper.lock();
        if keeper.is_some() {
            return Ok(());
        }
        let start = || format!("start what puts {MODULE} back");
        let module = serde_json::to_string(&self.module).or_cannot_run(start)?;
        let (program, arguments) = (self.module.keeper.split_first())
            .ok_or_else(|| CannotRun(format!("nothing puts {MODULE} back")))?;
        // It outlives this process; a Ctrl-C is sent to this one's group alone.
        let child = Command::new(program)
            .args(arguments)
            .arg(module)
            .process_group(0)
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn()
            .or_cannot_run(start)?;
        *keeper = Some(child);
        Ok(())
    }

    /// Has the keeper put the module back, which waits for the holds of all processes. Where the keeper
    /// fails, a line on stderr says so, after the keeper's own words.
    pub fn put_back(&self) {
        let keeper = self.keeper.lock().take();
        let Some(mut keeper) = keeper else {
            return;
        };
        // Waiting also ends the pipe.
        match keeper.wait() {
            Ok(status) if status.success() => {}
            Ok(status) => errln!("Error: {MODULE} was not put back ({status})"),
            Err(error) => errln!("Error: whether {MODULE} was put back is not known: {error}"),
        }
    }
}

/// What [`KEEPER`] makes of this program, with the arguments after it: waits for the end of the process
/// that started it, then puts the module back.
///
/// # Errors
/// [`CannotRun`]: it cannot be put back, and stays written down.
pub fn keep(arguments: &[String]) -> Result<()> {
    let [module] = arguments else {
        bail!("expected a module after {KEEPER}, found {arguments:?}");
    };
    let module: Module = serde_json::from_str(module)
        .with_context(|| format!("the module after {KEEPER} is not understood"))?;
    // An error ends it as well.
    let _ = io::copy(&mut io::stdin(), &mut io::sink());
    module
        .put_back()
        .or_cannot_run(|| format!("put {MODULE} back"))
}

#[cfg(test)]
mod tests;
