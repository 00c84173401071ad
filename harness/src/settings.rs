//! Everything the user can set, from `NICMATRIX_*` variables: libtest's arguments are fixed, so
//! `cargo xtask` passes its flags this way, and `cargo test` and nextest users set them directly.

use crate::base::words::{self, is_program, quote, unknown};
use crate::matrix::schema::HostChoice;
use anyhow::{Context, bail, ensure};
use serde::{Deserialize, Serialize};
use std::path::{Path, PathBuf};

/// `--accel`
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum AccelChoice {
    /// KVM where it is shown to work, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG even where KVM works.
    Tcg,
}

/// The user's settings.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Root of the workspace.
    pub root: PathBuf,
    /// `NICMATRIX_MATRIX`: the matrix file.
    pub matrix: PathBuf,
    /// `NICMATRIX_PROFILE`: `smoke`, `full`, `soak` or another of the file.
    pub profile: String,
    /// `NICMATRIX_QEMU`: the QEMU under test.
    pub qemu: PathBuf,
    /// `NICMATRIX_FIRMWARE`: QEMU's `-L` directories, separated by `:`.
    pub firmware: Vec<PathBuf>,
    /// `NICMATRIX_ACCEL`: `auto`, `kvm` or `tcg`.
    pub accel: AccelChoice,
    /// `NICMATRIX_HOST`: `auto`, `direct` or `lab`, in place of the matrix file's.
    pub host: Option<HostChoice>,
    /// `NICMATRIX_ALLOW_MODULE_RELOAD=1`: trials on this machine reload vhost_net with the setting that
    /// they need ([`crate::host::module`]).
    pub allow_module_reload: bool,
    /// `NICMATRIX_RETRIES`: further tries of a trial that failed.
    pub retries: u32,
    /// `NICMATRIX_BOOT=1`: every guest boots, none is restored from a checkpoint.
    pub boot: bool,
    /// `NICMATRIX_SHARD`: `K/N`, the K-th (from 1) of N equal parts of the plan.
    pub shard: Option<(u32, u32)>,
    /// `NICMATRIX_FAULTS=1`: every case under each of its faults.
    pub faults: bool,
    /// `NICMATRIX_JUNIT`: where the JUnit file goes.
    pub junit: Option<PathBuf>,
    /// `NICMATRIX_TABLE=1`: progress and a table in place of libtest's lines.
    pub table: bool,
    /// `NICMATRIX_SHOW=1`: console, commands and their output on stderr as they come.
    pub show: bool,
    /// `NICMATRIX_SHELL=1`: the terminal on the VM at a trial's end.
    pub shell: bool,
    /// `NEXTEST=1`: run by nextest, a process a trial; it does progress and reports.
    pub nextest: bool,
    /// `NICMATRIX_RUN`, else nextest's run id: the name of the run's directory, shared by the
    /// processes that are given the same.
    pub run: Option<String>,
    /// `NICMATRIX_DIR`: images, caches and artifacts; `target/nicmatrix` by default.
    pub dir: PathBuf,
}

/// Where distributions put QEMU beside the directories on PATH: RHEL, then everybody else.
const QEMU_PLACES: &[&str] = &["/usr/libexec/qemu-kvm", "/usr/bin/qemu-system-x86_64"];
const DEFAULT_PROFILE: &str = "smoke";
const DEFAULT_MATRIX: &str = "matrix.toml";
const ACCELS: &[(&str, AccelChoice)] = &[
    ("auto", AccelChoice::Auto),
    ("kvm", AccelChoice::Kvm),
    ("tcg", AccelChoice::Tcg),
];

impl Settings {
    /// From the environment.
    pub fn from_env() -> anyhow::Result<Settings> {
        for (name, value) in std::env::vars_os() {
            let ours = name.to_string_lossy().starts_with("NICMATRIX_");
            ensure!(
                !ours || value.to_str().is_some(),
                "{} is not valid UTF-8: {}",
                name.display(),
                value.display()
            );
        }
        Self::from_vars(|name| std::env::var(name).ok())
    }

    /// From variables got by name. An empty one counts as absent.
    pub fn from_vars(get: impl Fn(&str) -> Option<String>) -> anyhow::Result<Settings> {
        let get = |name: &str| get(name).filter(|value| !value.is_empty());
        let (whose, root) = ["NEXTEST_WORKSPACE_ROOT", "NICMATRIX_ROOT"]
            .into_iter()
            .find_map(|name| Some((name, get(name)?)))
            .unwrap_or((
                "NICMATRIX_ROOT is not set, and where this was built",
                concat!(env!("CARGO_MANIFEST_DIR"), "/..").into(),
            ));
        let root = Path::new(&root)
            .canonicalize()
            .with_context(|| format!("{whose}: cannot find {root}"))?;
        let path =
            |name: &str, default: &str| root.join(get(name).unwrap_or_else(|| default.to_string()));

        let mut firmware = Vec::new();
        for directory in get("NICMATRIX_FIRMWARE").iter().flat_map(|v| v.split(':')) {
            let directory = root.join(directory);
            ensure!(
                directory.is_dir(),
                "NICMATRIX_FIRMWARE: there is no directory {}; wanted are QEMU's -L directories, \
                 separated by `:`",
                directory.display()
            );
            firmware.push(directory);
        }
        let accel = get("NICMATRIX_ACCEL").unwrap_or_else(|| "auto".into());
        let accel = choice("NICMATRIX_ACCEL", "accelerator", &accel, ACCELS)?;
        let host = get("NICMATRIX_HOST")
            .map(|host| choice("NICMATRIX_HOST", "host", &host, HostChoice::WORDS))
            .transpose()?;
        let retries = get("NICMATRIX_RETRIES").unwrap_or_else(|| "0".into());
        let switch = |name: &str| match get(name).as_deref() {
            None | Some("0") => Ok(false),
            Some("1") => Ok(true),
            Some(other) => bail!("{name} is `{other}`, allowed are 0 and 1"),
        };
        Ok(Settings {
            matrix: path("NICMATRIX_MATRIX", DEFAULT_MATRIX),
            profile: get("NICMATRIX_PROFILE").unwrap_or_else(|| DEFAULT_PROFILE.into()),
            qemu: qemu(
                get("NICMATRIX_QEMU").as_deref(),
                &get("PATH").unwrap_or_default(),
                QEMU_PLACES,
                &root,
            )?,
            firmware,
            accel,
            host,
            allow_module_reload: switch("NICMATRIX_ALLOW_MODULE_RELOAD")?,
            retries: retries.parse().ok().with_context(|| {
                format!("NICMATRIX_RETRIES is `{retries}`, wanted is a whole number, 0 or more")
            })?,
            shard: get("NICMATRIX_SHARD").map(|v| shard(&v)).transpose()?,
            boot: switch("NICMATRIX_BOOT")?,
            faults: switch("NICMATRIX_FAULTS")?,
            table: switch("NICMATRIX_TABLE")?,
            show: switch("NICMATRIX_SHOW")?,
            shell: switch("NICMATRIX_SHELL")?,
            nextest: switch("NEXTEST")?,
            run: get("NICMATRIX_RUN").or_else(|| get("NEXTEST_RUN_ID")),
            junit: get("NICMATRIX_JUNIT").map(|value| root.join(value)),
            dir: path("NICMATRIX_DIR", "target/nicmatrix"),
            root,
        })
    }

    /// Where built images are kept.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }
    /// Where saved guests are kept.
    pub fn checkpoints(&self) -> PathBuf {
        self.dir.join("checkpoints")
    }
    /// Where what was learned of the host is kept.
    pub fn host_cache(&self) -> PathBuf {
        self.dir.join("host")
    }
    /// Where runs leave their artifacts.
    pub fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }
    /// The command that runs one trial again, with the settings that are not the defaults.
    pub fn reproduce(&self, trial: &str) -> String {
        let mut words = vec!["cargo xtask repro".to_owned(), quote(trial)];
        let mut option = |name: &str, value: &str| words.push(format!("{name} {}", quote(value)));
        if self.profile != DEFAULT_PROFILE {
            option("--profile", &self.profile);
        }
        if self.matrix != self.root.join(DEFAULT_MATRIX) {
            option("--matrix", &self.matrix.to_string_lossy());
        }
        if !QEMU_PLACES.contains(&&*self.qemu.to_string_lossy()) {
            option("--qemu", &self.qemu.to_string_lossy());
        }
        for directory in &self.firmware {
            option("--firmware", &directory.to_string_lossy());
        }
        if let Some((word, _)) = ACCELS
            .iter()
            .skip(1)
            .find(|(_, accel)| *accel == self.accel)
        {
            option("--accel", word);
        }
        let host = HostChoice::WORDS
            .iter()
            .find(|(_, host)| Some(*host) == self.host);
        if let Some((word, _)) = host {
            words.push(format!("--host {word}"));
        }
        if self.allow_module_reload {
            words.push("--allow-module-reload".into());
        }
        if self.boot {
            words.push("--boot".into());
        }
        words.join(" ")
    }
}

/// What the word `given` in the variable `name` means; the words are of a `kind`.
fn choice<T: Copy>(name: &str, kind: &str, given: &str, words: &[(&str, T)]) -> anyhow::Result<T> {
    match words.iter().find(|(word, _)| *word == given) {
        Some((_, meaning)) => Ok(*meaning),
        None => {
            let allowed = words.iter().map(|(word, _)| *word);
            bail!("{name}: {}", unknown(kind, given, allowed))
        }
    }
}

fn shard(value: &str) -> anyhow::Result<(u32, u32)> {
    let parts = value.split_once('/').and_then(|(k, n)| {
        let (k, n) = (k.parse().ok()?, n.parse().ok()?);
        (1..=n).contains(&k).then_some((k, n))
    });
    parts.with_context(|| {
        format!(
            "NICMATRIX_SHARD is `{value}`, wanted is K/N, the K-th of N parts, with K from 1 to N"
        )
    })
}

/// The QEMU that was asked for (a bare name is looked up on PATH, a path taken from the root), or
/// the first that there is.
fn qemu(asked: Option<&str>, path: &str, places: &[&str], root: &Path) -> anyhow::Result<PathBuf> {
    let on_path = |name: &str| words::on_path(name, path.as_ref());
    let Some(asked) = asked else {
        let elsewhere = || {
            places
                .iter()
                .map(PathBuf::from)
                .find(|file| is_program(file))
        };
        return on_path("qemu-system-x86_64")
            .or_else(elsewhere)
            .with_context(|| {
                format!(
                    "there is no QEMU: no qemu-system-x86_64 on PATH, and none of {}; install \
                     the package qemu-system-x86 (on RHEL qemu-kvm), or name one in NICMATRIX_QEMU",
                    places.join(", ")
                )
            });
    };
    let file = match asked.contains('/') {
        true => root.join(asked),
        false => on_path(asked).with_context(|| {
            format!("NICMATRIX_QEMU is `{asked}`, but no such program is on PATH")
        })?,
    };
    ensure!(
        file.exists(),
        "NICMATRIX_QEMU: there is no file {}; the package qemu-system-x86 brings \
         /usr/bin/qemu-system-x86_64",
        file.display()
    );
    ensure!(
        is_program(&file),
        "NICMATRIX_QEMU: {} is not an executable file",
        file.display()
    );
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(vars: &[(&str, &str)]) -> anyhow::Result<Settings> {
        let get = |name: &str| {
            let given = vars.iter().find(|(n, _)| *n == name);
            // Any program will do: nothing here runs it.
            let default = (name == "NICMATRIX_QEMU").then_some("/bin/sh");
            given.map(|(_, v)| *v).or(default).map(String::from)
        };
        Settings::from_vars(get)
    }

    fn complaint(name: &str, value: &str) -> String {
        match settings(&[(name, value)]) {
            Ok(settings) => panic!("{name}={value} was taken: {settings:?}"),
            Err(e) => format!("{e:#}"),
        }
    }

    #[test]
    fn defaults() {
        let s = settings(&[]).unwrap();
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().unwrap();
        assert_eq!(s.root, root);
        assert_eq!(s.matrix, root.join("matrix.toml"));
        assert_eq!(s.dir, root.join("target/nicmatrix"));
        assert_eq!(s.profile, "smoke");
        assert_eq!(s.accel, AccelChoice::Auto);
        assert_eq!((s.retries, s.shard, s.faults), (0, None, false));
        assert!(!s.allow_module_reload);
        assert_eq!(s.junit, None);
    }

    #[test]
    fn everything_set() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        let s = settings(&[
            ("NICMATRIX_ROOT", root.to_str().unwrap()),
            ("NICMATRIX_MATRIX", "other.toml"),
            ("NICMATRIX_PROFILE", "full"),
            ("NICMATRIX_FIRMWARE", "/usr:/etc"),
            ("NICMATRIX_ACCEL", "tcg"),
            ("NICMATRIX_RETRIES", "2"),
            ("NICMATRIX_SHARD", "2/3"),
            ("NICMATRIX_FAULTS", "1"),
            ("NICMATRIX_ALLOW_MODULE_RELOAD", "1"),
            ("NICMATRIX_JUNIT", "/elsewhere/junit.xml"),
            ("NICMATRIX_DIR", "work"),
        ])
        .unwrap();
        assert_eq!(s.matrix, root.join("other.toml"));
        assert_eq!(s.profile, "full");
        assert_eq!(s.firmware, [Path::new("/usr"), Path::new("/etc")]);
        assert_eq!(s.accel, AccelChoice::Tcg);
        assert_eq!((s.retries, s.shard, s.faults), (2, Some((2, 3)), true));
        assert!(s.allow_module_reload);
        assert!(s.reproduce("a").ends_with(" --allow-module-reload"));
        assert_eq!(s.junit.as_deref(), Some(Path::new("/elsewhere/junit.xml")));
        assert_eq!(s.dir, root.join("work"));
    }

    #[test]
    fn nextest_knows_the_root_best() {
        let s = settings(&[
            ("NICMATRIX_ROOT", "/usr"),
            ("NEXTEST_WORKSPACE_ROOT", "/etc"),
        ]);
        assert_eq!(s.unwrap().root, Path::new("/etc"));
    }

    #[test]
    fn an_empty_variable_is_absent() {
        let s = settings(&[("NICMATRIX_PROFILE", ""), ("NICMATRIX_SHARD", "")]).unwrap();
        assert_eq!((s.profile.as_str(), s.shard), ("smoke", None));
    }

    #[test]
    fn bad_values() {
        let all: String = [
            ("NICMATRIX_ROOT", "/nowhere"),
            ("NICMATRIX_QEMU", "/nowhere/qemu"),
            ("NICMATRIX_QEMU", "/etc/passwd"),
            ("NICMATRIX_QEMU", "/etc"),
            ("NICMATRIX_QEMU", "qemu-nowhere"),
            ("NICMATRIX_FIRMWARE", "/usr:/nowhere"),
            ("NICMATRIX_ACCEL", "kmv"),
            ("NICMATRIX_RETRIES", "-1"),
            ("NICMATRIX_SHARD", "0/3"),
            ("NICMATRIX_SHARD", "4/3"),
            ("NICMATRIX_SHARD", "1"),
            ("NICMATRIX_FAULTS", "yes"),
            ("NICMATRIX_ALLOW_MODULE_RELOAD", "vhost_net"),
        ]
        .map(|(name, value)| complaint(name, value) + "\n")
        .concat();
        insta::assert_snapshot!(all, @r"
            NICMATRIX_ROOT: cannot find /nowhere: No such file or directory (os error 2)
            NICMATRIX_QEMU: there is no file /nowhere/qemu; the package qemu-system-x86 brings /usr/bin/qemu-system-x86_64
            NICMATRIX_QEMU: /etc/passwd is not an executable file
            NICMATRIX_QEMU: /etc is not an executable file
            NICMATRIX_QEMU is `qemu-nowhere`, but no such program is on PATH
            NICMATRIX_FIRMWARE: there is no directory /nowhere; wanted are QEMU's -L directories, separated by `:`
            NICMATRIX_ACCEL: unknown accelerator `kmv`, did you mean `kvm`? (allowed: auto, kvm, tcg)
            NICMATRIX_RETRIES is `-1`, wanted is a whole number, 0 or more
            NICMATRIX_SHARD is `0/3`, wanted is K/N, the K-th of N parts, with K from 1 to N
            NICMATRIX_SHARD is `4/3`, wanted is K/N, the K-th of N parts, with K from 1 to N
            NICMATRIX_SHARD is `1`, wanted is K/N, the K-th of N parts, with K from 1 to N
            NICMATRIX_FAULTS is `yes`, allowed are 0 and 1
            NICMATRIX_ALLOW_MODULE_RELOAD is `vhost_net`, allowed are 0 and 1
        ");
    }

    #[test]
    fn qemu_is_found_where_distributions_put_it() {
        let root = Path::new("/");
        let found = |path, places| qemu(None, path, places, root);
        assert_eq!(
            found("/nowhere", &["/nowhere/qemu", "/bin/sh"]).unwrap(),
            Path::new("/bin/sh")
        );
        assert_eq!(
            qemu(Some("sh"), "/nowhere:/bin", &[], root).unwrap(),
            Path::new("/bin/sh")
        );
        let none = found("/nowhere", &["/nowhere/a", "/nowhere/b"]).unwrap_err();
        insta::assert_snapshot!(none, @"there is no QEMU: no qemu-system-x86_64 on PATH, and none of /nowhere/a, /nowhere/b; install the package qemu-system-x86 (on RHEL qemu-kvm), or name one in NICMATRIX_QEMU");
    }
}
