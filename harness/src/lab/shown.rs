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
use rustix::mount::{MoveMountFlags, OpenTreeFlags, move_mount, open_tree};
use std::collections::{BTreeMap, BTreeSet};
use std::ffi::OsString;
use std::fs;
use std::os::fd::OwnedFd;
use std::os::unix::fs::symlink;
use std::path::{Component, Path, PathBuf};

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

/// Links that are followed on the way to one path; the kernel follows as many.
const LINKS: usize = 40;

/// What one lab is shown. A directory is there once, and whatever else leads to it are links, as they are here: the
/// client of 9p in the lab's kernel takes a directory for one that has moved when it is found in another place.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct Shown {
    /// Paths without a link in them.
    pub paths: BTreeSet<PathBuf>,
    /// By their own paths, what links lead to.
    pub links: BTreeMap<PathBuf, PathBuf>,
}

impl Shown {
    /// The system's programs, and `paths`; what is not there is left out.
    pub fn of(paths: impl IntoIterator<Item = PathBuf>) -> Shown {
        let mut shown = Shown::default();
        let system = SYSTEM.iter().chain(CONFIGURATION).map(PathBuf::from);
        for path in system.chain(paths) {
            let real = shown.way_to(&path);
            // What the lab's kernel has of its own, and the root, are nothing to show, whatever a script names.
            let kernels = ["/proc", "/sys", "/dev"].iter();
            let never = |real: &PathBuf| {
                real.parent().is_none() || kernels.clone().any(|tree| real.starts_with(tree))
            };
            shown.paths.extend(real.filter(|real| !never(real)));
        }
        let above = |path: &Path| path.ancestors().skip(1).any(|it| shown.paths.contains(it));
        let outermost = shown.paths.iter().filter(|path| !above(path));
        let paths = outermost.cloned().collect();
        Shown { paths, ..shown }
    }

    /// Shows the links on the way to `path`; where it leads, if anything is there.
    pub fn way_to(&mut self, path: &Path) -> Option<PathBuf> {
        let mut left: Vec<OsString> = backwards(path);
        let mut at = PathBuf::from("/");
        let mut followed = 0;
        while let Some(name) = left.pop() {
            if name == ".." {
                at.pop();
                continue;
            }
            let next = at.join(&name);
            match fs::read_link(&next) {
                Ok(target) => {
                    followed += 1;
                    if followed > LINKS {
                        return None;
                    }
                    if target.is_absolute() {
                        at = PathBuf::from("/");
                    }
                    left.extend(backwards(&target));
                    self.links.insert(next, target);
                }
                Err(_) if next.exists() => at = next,
                Err(_) => return None,
            }
        }
        Some(at)
    }
}

/// A path's names, the last one first.
fn backwards(path: &Path) -> Vec<OsString> {
    let named = path
        .components()
        .rev()
        .filter_map(|component| match component {
            Component::Normal(name) => Some(name.to_owned()),
            Component::ParentDir => Some("..".into()),
            _ => None,
        });
    named.collect()
}

/// Where what a lab is shown is put together.
pub struct Tree {
    /// An empty directory that no lab may write to.
    pub at: PathBuf,
    /// What is there under its own name.
    pub shown: Shown,
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

impl Tree {
    /// Gives the calling thread, and what it starts, mounts with the tree.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`]: a path that cannot be shown.
    pub fn enter(&self) -> Result<()> {
        let at = self.at.as_path();
        fs::create_dir_all(at).or_cannot_run(|| format!("create {}", at.display()))?;
        own_mounts().or_cannot_run(|| "make mounts for a lab".into())?;
        // Opened before the tree is there, which may itself be below one of them.
        let opened = self.shown.paths.iter().map(|path| {
            let opened = clone_of(path);
            Ok((path, opened.or_cannot_run(|| cannot_show(path))?))
        });
        let opened: Vec<(&PathBuf, OwnedFd)> = opened.collect::<Result<_>>()?;
        mount_tmpfs(at).or_cannot_run(|| format!("mount a file system at {}", at.display()))?;
        for (path, opened) in &opened {
            attach(path, opened, &below(at, path)).or_cannot_run(|| cannot_show(path))?;
        }
        let points = MOUNT_POINTS.iter().map(Path::new);
        for point in points.chain(self.empty.iter().map(PathBuf::as_path)) {
            let place = below(at, point);
            fs::create_dir_all(&place).or_cannot_run(|| format!("create {}", place.display()))?;
        }
        for (path, target) in &self.shown.links {
            link(&below(at, path), target).or_cannot_run(|| cannot_show(path))?;
        }
        Ok(())
    }
}

fn cannot_show(path: &Path) -> String {
    format!("show {} to a lab", path.display())
}

/// Puts what was opened of `path` at `place`.
fn attach(path: &Path, opened: &OwnedFd, place: &Path) -> Result<()> {
    if path.is_dir() {
        fs::create_dir_all(place)?;
    } else {
        place.parent().map_or(Ok(()), fs::create_dir_all)?;
        fs::File::create(place)?;
    }
    let flags = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH;
    Ok(move_mount(opened, "", CWD, place, flags)?)
}

/// Makes a link, unless it is there as a part of its directory.
fn link(place: &Path, target: &Path) -> std::io::Result<()> {
    if place.is_symlink() {
        return Ok(());
    }
    place.parent().map_or(Ok(()), fs::create_dir_all)?;
    symlink(target, place)
}

fn below(tree: &Path, path: &Path) -> PathBuf {
    tree.join(path.strip_prefix("/").unwrap_or(path))
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
        let Shown { paths, .. } = Shown::of(paths);
        let kernels = paths.iter().any(|path| path.starts_with("/proc"));
        assert!(!paths.contains(Path::new("/")) && !kernels, "{paths:?}");
        assert!(paths.contains(Path::new("/usr")), "{paths:?}");
    }

    #[test]
    fn a_directory_is_shown_once_and_links_lead_to_it() {
        let directory = tempfile::tempdir().unwrap();
        let real = directory.path().canonicalize().unwrap();
        fs::create_dir_all(real.join("disk/images/1")).unwrap();
        symlink(real.join("disk"), real.join("target")).unwrap();
        symlink("../disk/images", real.join("disk/current")).unwrap();
        symlink("loop", real.join("loop")).unwrap();
        let named = [
            "target/current/1",
            "disk/images",
            "target/images",
            "loop",
            "none",
        ];
        let Shown { paths, links } = Shown::of(named.map(|name| real.join(name)));
        let ours = paths.iter().filter(|path| path.starts_with(&real));
        assert_eq!(ours.collect::<Vec<_>>(), [&real.join("disk/images")]);
        assert_eq!(links[&real.join("target")], real.join("disk"));
        assert_eq!(
            links[&real.join("disk/current")],
            Path::new("../disk/images")
        );
        // As distributions have them, once they have merged /usr.
        if let Some(bin) = links.get(Path::new("/bin")) {
            assert!(bin.ends_with("usr/bin") && !paths.contains(Path::new("/usr/bin")));
        }
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
