//! What a lab is shown of this machine's files: the system's programs, what the run is made of, and nothing else.
//!
//! A tree of mounts, seen by the lab's QEMU alone, is what it exports. It ends with that QEMU, whatever ended it.

use crate::base::child::pdeath_command;
use crate::base::error::OrCannotRun as _;
use crate::base::thread;
use crate::vm::qemu::Qemu;
use anyhow::Result;
use goblin::elf::Elf;
use nix::mount::{MsFlags, mount};
use nix::sched::{CloneFlags, unshare};
use rustix::fs::CWD;
use rustix::io::Errno;
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::collections::BTreeSet;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::MetadataExt as _;
use std::path::{Path, PathBuf};

/// Where distributions, Nix and Guix keep programs with what they read.
const SYSTEM: &[&str] = &[
    "/usr", "/bin", "/sbin", "/lib", "/lib32", "/lib64", "/libx32", "/opt", "/nix", "/gnu",
];

/// What the system's programs read of its configuration; nothing there is a secret.
const CONFIGURATION: &[&str] = &[
    "/etc/alternatives",
    "/etc/group",
    "/etc/hosts",
    "/etc/iproute2",
    "/etc/ld.so.cache",
    "/etc/localtime",
    "/etc/nsswitch.conf",
    "/etc/passwd",
    "/etc/protocols",
    "/etc/services",
];

/// Where the lab mounts file systems of its own.
const MOUNT_POINTS: &[&str] = &["/dev", "/proc", "/sys", "/tmp", "/var/tmp", "/run", "/root"];

/// What one lab is shown.
pub struct Shown {
    /// Where the tree is made: an empty directory that no lab may write to.
    pub tree: PathBuf,
    /// What is there under its own name, beside the system's programs. What is missing here is left out.
    pub paths: Vec<PathBuf>,
    /// Directories that are there and empty.
    pub empty: Vec<PathBuf>,
}

/// Whether this process may make such a tree. An ordinary user without a namespace may not, nor root where a container's
/// rules forbid it: their labs see what they may read.
pub fn is_allowed() -> bool {
    let tried = thread::start("mounts", || -> Result<()> {
        own_mounts()?;
        clone_of(Path::new("/usr"))?;
        Ok(mount_tmpfs(Path::new("/usr"))?)
    });
    tried.is_ok_and(|thread| thread.join().is_ok_and(|tried| tried.is_ok()))
}

/// Gives the calling thread mounts of its own.
fn own_mounts() -> nix::Result<()> {
    unshare(CloneFlags::CLONE_NEWNS)?;
    let (nothing, apart) = (None::<&Path>, MsFlags::MS_REC | MsFlags::MS_PRIVATE);
    mount(nothing, "/", nothing, apart, nothing)
}

fn mount_tmpfs(at: &Path) -> nix::Result<()> {
    mount(
        Some("tmpfs"),
        at,
        Some("tmpfs"),
        MsFlags::empty(),
        Some("mode=0755"),
    )
}

/// The mounts at and below a path, to be put elsewhere.
fn clone_of(path: &Path) -> rustix::io::Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_RECURSIVE;
    open_tree(CWD, path, flags)
}

impl Shown {
    /// Gives the calling thread, and what it starts, mounts with the tree.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: a kernel below 5.2; a path that cannot be shown.
    pub fn enter(&self) -> Result<()> {
        let tree = self.tree.as_path();
        fs::create_dir_all(tree).or_cannot_run(|| format!("create {}", tree.display()))?;
        own_mounts().or_cannot_run(|| "make mounts for a lab".into())?;
        // Opened before the tree is there, which may itself be below one of them.
        let opened = self
            .all()
            .into_iter()
            .filter_map(|path| open(path).transpose());
        let opened: Vec<(PathBuf, OwnedFd)> = opened.collect::<Result<_>>()?;
        mount_tmpfs(tree).or_cannot_run(|| format!("mount a file system at {}", tree.display()))?;
        for (path, opened) in &opened {
            let place = below(tree, path);
            attach(path, opened, &place)
                .or_cannot_run(|| format!("show {} to a lab", path.display()))?;
        }
        let points = MOUNT_POINTS.iter().map(Path::new);
        for point in points.chain(self.empty.iter().map(PathBuf::as_path)) {
            let place = below(tree, point);
            fs::create_dir_all(&place).or_cannot_run(|| format!("create {}", place.display()))?;
        }
        Ok(())
    }

    /// All paths, a directory before what is in it.
    fn all(&self) -> BTreeSet<PathBuf> {
        let own = self.paths.iter();
        // A path may lead through links, which the tree has not.
        let real = own.clone().filter_map(|path| path.canonicalize().ok());
        let system = SYSTEM.iter().chain(CONFIGURATION).map(PathBuf::from);
        let all = system.chain(own.cloned()).chain(real);
        // What the lab's kernel has of its own, and the root, are nothing to show, whatever a script names.
        let never = |path: &PathBuf| {
            let kernels = ["/proc", "/sys", "/dev"].iter();
            path.parent().is_none() || kernels.clone().any(|tree| path.starts_with(tree))
        };
        all.filter(|path| !never(path)).collect()
    }
}

/// A path with its mounts; none where nothing is.
fn open(path: PathBuf) -> Result<Option<(PathBuf, OwnedFd)>> {
    match clone_of(&path) {
        Err(Errno::NOENT) => Ok(None),
        opened => {
            let opened = opened.or_cannot_run(|| format!("show {} to a lab", path.display()))?;
            Ok(Some((path, opened)))
        }
    }
}

/// Puts what was opened of `path` at `place`, unless it is there as a part of its directory.
fn attach(path: &Path, opened: &OwnedFd, place: &Path) -> Result<()> {
    if same(path, place) {
        return Ok(());
    }
    if path.is_dir() {
        fs::create_dir_all(place)?;
    } else if !place.exists() {
        place.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::File::create(place)?;
    }
    move_mount(
        opened,
        "",
        CWD,
        place,
        MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH,
    )?;
    Ok(())
}

fn below(tree: &Path, path: &Path) -> PathBuf {
    tree.join(path.strip_prefix("/").unwrap_or(path))
}

/// Whether two paths are of one file.
fn same(one: &Path, other: &Path) -> bool {
    let which = |path: &Path| path.metadata().map(|file| (file.dev(), file.ino()));
    which(one)
        .ok()
        .zip(which(other).ok())
        .is_some_and(|(one, other)| one == other)
}

/// What `qemu` is made of.
pub fn of_qemu(qemu: &Qemu) -> Vec<PathBuf> {
    let mut all = of_program(&qemu.program);
    all.extend(qemu.uefi.clone());
    all.extend(
        qemu.firmware
            .iter()
            .flat_map(|directory| with_targets(directory)),
    );
    if let Some(loader) = &qemu.loader {
        all.push(loader.program.clone());
        all.extend(loader.libraries.iter().cloned());
    } else if !is_system(&qemu.program) {
        // A QEMU that cannot say where it looks for firmware says why when it is started.
        let help = qemu.command(["-L", "help"]).output();
        let said = help.map(|help| String::from_utf8_lossy(&help.stdout).into_owned());
        all.extend(
            said.unwrap_or_default()
                .lines()
                .flat_map(|line| with_targets(Path::new(line))),
        );
    }
    all
}

fn is_system(program: &Path) -> bool {
    let real = program.canonicalize();
    real.is_ok_and(|real| SYSTEM.iter().any(|tree| real.starts_with(tree)))
}

/// A program with its libraries and modules; of a script, also what it names.
fn of_program(program: &Path) -> Vec<PathBuf> {
    let mut all = vec![program.to_owned()];
    if is_system(program) {
        return all;
    }
    let begins = fs::read(program).unwrap_or_default();
    if begins.starts_with(b"#!") {
        let text = String::from_utf8_lossy(&begins).into_owned();
        let words = text.split(|c: char| c.is_whitespace() || "'\"`;=:".contains(c));
        let named = words.map(Path::new).filter(|word| word.is_absolute());
        for word in named.filter(|word| *word != program) {
            match word.metadata() {
                Ok(of) if of.is_file() => all.extend(libraries(word)),
                // Of modules or firmware; not a directory as wide as `/home`.
                Ok(of) if of.is_dir() && word.components().count() > 2 => {
                    all.extend(with_targets(word));
                }
                _ => {}
            }
        }
    } else {
        all.extend(libraries(program));
    }
    all
}

/// A program that is no script, with its libraries, and with the modules of a QEMU that was built or installed there.
fn libraries(program: &Path) -> Vec<PathBuf> {
    let mut all = vec![program.to_owned()];
    if is_system(program) {
        return all;
    }
    all.extend(loaded(program).unwrap_or_default());
    let real = program
        .canonicalize()
        .unwrap_or_else(|_| program.to_owned());
    if let Some(directory) = real.parent() {
        let modules = [
            "qemu-bundle",
            "../lib/qemu",
            "../lib64/qemu",
            "../lib/x86_64-linux-gnu/qemu",
        ];
        all.extend(
            modules
                .iter()
                .filter_map(|name| directory.join(name).canonicalize().ok()),
        );
    }
    all
}

/// The libraries of a program, as its loader finds them.
fn loaded(program: &Path) -> Option<Vec<PathBuf>> {
    let bytes = fs::read(program).ok()?;
    let loader = Elf::parse(&bytes).ok()?.interpreter?;
    // A line each: "libz.so.1 => /lib/libz.so.1 (0x…)".
    let listed = pdeath_command(loader)
        .arg("--list")
        .arg(program)
        .output()
        .ok()?;
    let printed = String::from_utf8_lossy(&listed.stdout).into_owned();
    let words = printed.split_whitespace().map(PathBuf::from);
    Some(words.filter(|word| word.is_absolute()).collect())
}

/// A directory, with what the links in it lead to: a QEMU that was built and not installed has its firmware so.
fn with_targets(directory: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(directory).into_iter().flatten().flatten();
    let links = entries.filter(|entry| entry.file_type().is_ok_and(|kind| kind.is_symlink()));
    let targets = links.filter_map(|link| link.path().canonicalize().ok());
    std::iter::once(directory.to_owned())
        .chain(targets)
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::symlink;

    #[test]
    fn of_a_script_what_it_names_is_shown_and_not_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let at = |name: &str| directory.path().join(name);
        fs::create_dir_all(at("firmware")).unwrap();
        fs::write(at("rom"), "").unwrap();
        symlink(at("rom"), at("firmware/rom")).unwrap();
        fs::write(at("qemu"), "").unwrap();
        let script = format!(
            "#!/bin/sh\ncd /proc/self\nexec '{}' -L {} \"$@\" </dev/null\n",
            at("qemu").display(),
            at("firmware").display()
        );
        fs::write(at("script"), script).unwrap();
        let paths = of_program(&at("script"));
        for name in ["script", "qemu", "firmware", "rom"] {
            assert!(paths.contains(&at(name)), "{name}: {paths:?}");
        }
        let (tree, empty) = (PathBuf::new(), Vec::new());
        let shown = Shown { tree, paths, empty }.all();
        assert!(!shown.contains(Path::new("/")) && !shown.contains(Path::new("/proc/self")));
        assert!(shown.contains(Path::new("/usr")));
    }

    #[test]
    fn a_program_outside_the_system_comes_with_its_libraries() {
        let directory = tempfile::tempdir().unwrap();
        let program = directory.path().join("sleep");
        fs::copy("/bin/sleep", &program).unwrap();
        let paths = of_program(&program);
        let has_libc = paths.iter().any(|path| path.ends_with("libc.so.6"));
        assert!(paths.contains(&program) && has_libc, "{paths:?}");
        assert_eq!(
            of_program(Path::new("/bin/sleep")),
            [Path::new("/bin/sleep")]
        );
    }
}
