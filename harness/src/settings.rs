//! The user's settings ([`report::flags`]) as they hold here: defaults filled in, paths absolute, and the
//! QEMU found.

use crate::base::words::{self, is_program, quote};
use anyhow::{Context, ensure};
use report::flags::{
    self, Conditions, Flags, FlakyResult, MessageFormat, Only, Output, QemuChoice, Results,
    Selection, Terminal, named,
};
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

pub use report::flags::{AccelChoice, HostChoice};

/// The user's settings; [`report::flags`] says what each is.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Settings {
    /// Root of the workspace.
    pub root: PathBuf,
    /// The matrix file.
    pub matrix: PathBuf,
    /// A profile of it.
    pub profile: String,
    /// The default QEMU.
    pub qemu: PathBuf,
    /// Its `-L` directories.
    pub firmware: Vec<PathBuf>,
    /// QEMUs that are added to the matrix file's, by name.
    pub added_qemus: Vec<(String, PathBuf)>,
    /// Names of the QEMUs that are tested; those of the matrix file's axis where there are none.
    pub chosen_qemus: Vec<String>,
    /// How guest code is run.
    pub accel: AccelChoice,
    /// In place of the matrix file's.
    pub host: Option<HostChoice>,
    /// See [`crate::host::module`].
    pub allow_module_reload: bool,
    /// Further tries of a trial that failed.
    pub retries: u32,
    /// Repeats of a trial that failed, which say whether its failure is solid.
    pub confirm: u32,
    /// Whether a flaky trial makes the run fail.
    pub flaky_fails: bool,
    /// A pass where a failure is expected is a failure.
    pub strict: bool,
    /// Every guest boots.
    pub boot: bool,
    /// The K-th (from 1) of N parts.
    pub shard: Option<(u32, u32)>,
    /// What the parts are filled by: a run's directory or a file.
    pub durations: Option<PathBuf>,
    /// Every case under each of its faults.
    pub faults: bool,
    /// Which trials are chosen.
    pub only: Only,
    /// Where the JUnit file goes.
    pub junit: Option<PathBuf>,
    /// The events go to stdout, in place of the summary.
    pub json: bool,
    /// Show progress and a table in place of libtest's lines.
    pub table: bool,
    /// Show what is said to and by the VM on stderr, as it comes.
    pub show: bool,
    /// Connect the terminal to the VM at a trial's end.
    pub shell: bool,
    /// `NEXTEST=1`: run by nextest, a process a trial; it does progress and reports.
    pub nextest: bool,
    /// [`flags::RUN`], else nextest's run id: the name of the run's directory, shared by the processes
    /// that are given the same.
    pub run: Option<String>,
    /// Images, caches and artifacts.
    pub dir: PathBuf,
}

/// Where distributions put QEMU beside the directories on PATH: RHEL, then everybody else.
const QEMU_PLACES: &[&str] = &["/usr/libexec/qemu-kvm", "/usr/bin/qemu-system-x86_64"];

impl Settings {
    /// From the environment.
    ///
    /// # Errors
    /// A setting that is not understood; files and directories that are not there.
    pub fn from_env() -> anyhow::Result<Settings> {
        Self::from_variables(&flags::variables()?)
    }

    /// From these variables. An empty one counts as absent.
    pub fn from_variables(variables: &BTreeMap<String, String>) -> anyhow::Result<Settings> {
        let get = |name: &str| variables.get(name).filter(|value| !value.is_empty());
        let Flags {
            conditions,
            selection:
                Selection {
                    faults,
                    shard,
                    durations,
                },
            only,
            results:
                Results {
                    retries,
                    confirm,
                    flaky_result,
                    junit,
                    message_format,
                    strict,
                },
            terminal: Terminal { shell },
            output: Output { table, show, dir },
        } = Flags::from_variables(variables)?;
        let Conditions {
            profile,
            matrix,
            qemu: asked_qemus,
            firmware,
            accel,
            host,
            allow_module_reload,
            boot,
        } = conditions;

        let built_at = concat!(env!("CARGO_MANIFEST_DIR"), "/..").to_owned();
        let (whose, root) = ["NEXTEST_WORKSPACE_ROOT", flags::ROOT]
            .into_iter()
            .find_map(|name| Some((name, get(name)?)))
            .unwrap_or(("where this was built", &built_at));
        let root = Path::new(root)
            .canonicalize()
            .with_context(|| format!("{whose}: cannot find {root}"))?;
        let path = |given: Option<PathBuf>, default: &str| {
            root.join(given.unwrap_or_else(|| default.into()))
        };
        let firmware: Vec<PathBuf> = firmware.iter().map(|each| root.join(each)).collect();
        for directory in &firmware {
            ensure!(
                directory.is_dir(),
                "{}: there is no directory {}; expected QEMU's -L directories, in the variable separated by `:`",
                named("firmware"),
                directory.display()
            );
        }
        ensure!(
            durations.is_none() || shard.is_some(),
            "{} says what shards are filled by, and no {} is given",
            named("durations"),
            named("shard")
        );
        let search = get("PATH").map_or("", String::as_str);
        let asked = AskedQemus::of(&asked_qemus, search, &root)?;
        let nextest = get("NEXTEST").is_some_and(|value| value == "1");
        let (retries, confirm) = (retries.unwrap_or(0), confirm.unwrap_or(0));
        ensure!(
            retries == 0 || confirm == 0,
            "{} and {} both run a failed trial again: give one of them",
            named("retries"),
            named("confirm")
        );
        ensure!(
            confirm == 0 || !nextest,
            "{}: nextest has a process a trial, where none runs alone; use `cargo xtask matrix`",
            named("confirm")
        );
        Ok(Settings {
            matrix: path(matrix, flags::DEFAULT_MATRIX),
            profile: profile.unwrap_or_else(|| flags::DEFAULT_PROFILE.into()),
            qemu: qemu(asked.default.as_deref(), search, QEMU_PLACES, &root)?,
            firmware,
            added_qemus: asked.added,
            chosen_qemus: asked.chosen,
            accel: accel.unwrap_or(AccelChoice::Auto),
            host,
            allow_module_reload,
            retries,
            confirm,
            flaky_fails: flaky_result.map_or(confirm > 0, |result| result == FlakyResult::Fail),
            strict,
            shard,
            durations: durations.map(|file| root.join(file)),
            boot,
            faults,
            only,
            table,
            show,
            shell,
            nextest,
            run: get(flags::RUN).or_else(|| get("NEXTEST_RUN_ID")).cloned(),
            junit: junit.map(|file| root.join(file)),
            json: message_format == Some(MessageFormat::Json),
            dir: path(dir, flags::DEFAULT_DIR),
            root,
        })
    }

    /// Where built images are kept.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }
    /// Where fetched QEMUs are kept.
    pub fn qemus(&self) -> PathBuf {
        self.dir.join("qemus")
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
    /// `--qemu` as it was given; the default QEMU where it is `unusual`.
    fn qemu_choices(&self, unusual: bool) -> Vec<QemuChoice> {
        let default = unusual.then(|| QemuChoice::Program(self.qemu.clone()));
        let added = self.added_qemus.iter();
        let added = added.map(|(name, program)| QemuChoice::Added(name.clone(), program.clone()));
        let chosen =
            (!self.chosen_qemus.is_empty()).then(|| QemuChoice::Names(self.chosen_qemus.clone()));
        default.into_iter().chain(added).chain(chosen).collect()
    }

    /// The conditions that are not the defaults.
    fn conditions(&self) -> Conditions {
        let is_default_matrix = self.matrix == self.root.join(flags::DEFAULT_MATRIX);
        let is_usual_qemu = QEMU_PLACES.contains(&&*self.qemu.to_string_lossy());
        Conditions {
            profile: (self.profile != flags::DEFAULT_PROFILE).then(|| self.profile.clone()),
            matrix: (!is_default_matrix).then(|| self.matrix.clone()),
            qemu: self.qemu_choices(!is_usual_qemu),
            firmware: self.firmware.clone(),
            accel: Some(self.accel).filter(|accel| *accel != AccelChoice::Auto),
            host: self.host,
            allow_module_reload: self.allow_module_reload,
            boot: self.boot,
        }
    }

    /// The conditions that are not the defaults, for a run's first event: the checkout may be elsewhere
    /// when they are read.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn recorded(&self) -> anyhow::Result<BTreeMap<String, serde_json::Value>> {
        let mut conditions = self.conditions();
        let paths = conditions.matrix.iter_mut();
        for path in paths.chain(&mut conditions.firmware) {
            if let Ok(below) = path.strip_prefix(&self.root) {
                *path = below.to_owned();
            }
        }
        Ok(conditions.recorded()?)
    }

    /// The command that runs one trial again, with the conditions that are not the defaults. QEMUs that were added and
    /// are none of the trial's are left out.
    pub fn reproduce(&self, trial: &str) -> String {
        let mut command = format!("cargo xtask repro {}", quote(trial));
        for (flag, value) in self.conditions().as_flags() {
            let added = value.as_deref().and_then(|value| value.split_once('='));
            let is_others = |name: &str| {
                let chosen = self.chosen_qemus.iter().any(|chosen| chosen == name);
                !chosen && !trial.contains(name)
            };
            if flag == "--qemu" && added.is_some_and(|(name, _)| is_others(name)) {
                continue;
            }
            command += &format!(" {flag}");
            if let Some(value) = value {
                command += &format!(" {}", quote(&value));
            }
        }
        command
    }
}

/// The QEMUs that `--qemu` asks for.
#[derive(Default)]
struct AskedQemus {
    default: Option<PathBuf>,
    added: Vec<(String, PathBuf)>,
    chosen: Vec<String>,
}

impl AskedQemus {
    /// A bare name that is a program in `path` is the default QEMU, another is chosen among the matrix
    /// file's.
    fn of(choices: &[QemuChoice], path: &str, root: &Path) -> anyhow::Result<AskedQemus> {
        let mut asked = AskedQemus::default();
        for choice in choices {
            match choice {
                QemuChoice::Program(program) => asked.default = Some(program.clone()),
                QemuChoice::Added(name, program) => {
                    let program = qemu(Some(program), path, &[], root)?;
                    asked.added.push((name.clone(), program));
                }
                QemuChoice::Names(names) => match names.as_slice() {
                    [name] if words::on_path(name, path.as_ref()).is_some() => {
                        asked.default = Some(name.into());
                    }
                    names => asked.chosen.extend_from_slice(names),
                },
            }
        }
        Ok(asked)
    }
}

/// The QEMU that was asked for (a bare name is looked up on PATH, a path taken from the root), or
/// the first that there is.
fn qemu(asked: Option<&Path>, path: &str, places: &[&str], root: &Path) -> anyhow::Result<PathBuf> {
    let on_path = |name: &Path| words::on_path(name, path.as_ref());
    let Some(asked) = asked else {
        let elsewhere = || {
            places
                .iter()
                .map(PathBuf::from)
                .find(|file| is_program(file))
        };
        return on_path(Path::new("qemu-system-x86_64"))
            .or_else(elsewhere)
            .with_context(|| {
                format!(
                    "there is no QEMU: no qemu-system-x86_64 on PATH, and none of {}; install \
                     the package qemu-system-x86 (on RHEL qemu-kvm), or name one with {}",
                    places.join(", "),
                    named("qemu")
                )
            });
    };
    let name = named("qemu");
    let file = match asked.to_string_lossy().contains('/') {
        true => root.join(asked),
        false => on_path(asked).with_context(|| {
            let asked = asked.display();
            format!("{name} is `{asked}`, but no such program is on PATH")
        })?,
    };
    ensure!(
        file.exists(),
        "{name}: there is no file {}; the package qemu-system-x86 brings \
         /usr/bin/qemu-system-x86_64",
        file.display()
    );
    ensure!(
        is_program(&file),
        "{name}: {} is not an executable file",
        file.display()
    );
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn settings(given: &[(&str, &str)]) -> anyhow::Result<Settings> {
        // Any program will do for QEMU: nothing here runs it.
        let all = [("NICMATRIX_QEMU", "/bin/sh")]
            .iter()
            .chain(given)
            .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
        Settings::from_variables(&all.collect())
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
        assert_eq!((s.junit, s.run, s.nextest), (None, None, false));
    }

    #[test]
    fn relative_paths_are_meant_from_the_root() {
        let directory = tempfile::tempdir().unwrap();
        let root = directory.path().canonicalize().unwrap();
        std::fs::create_dir(root.join("pc-bios")).unwrap();
        let s = settings(&[
            ("NICMATRIX_ROOT", root.to_str().unwrap()),
            ("NICMATRIX_MATRIX", "other.toml"),
            ("NICMATRIX_FIRMWARE", "pc-bios:/etc"),
            ("NICMATRIX_JUNIT", "/elsewhere/junit.xml"),
            ("NICMATRIX_DIR", "work"),
        ])
        .unwrap();
        assert_eq!(s.matrix, root.join("other.toml"));
        assert_eq!(s.firmware, [root.join("pc-bios"), "/etc".into()]);
        assert_eq!(s.junit.as_deref(), Some(Path::new("/elsewhere/junit.xml")));
        assert_eq!(s.dir, root.join("work"));
    }

    #[test]
    fn nextest_knows_root_and_run() {
        let s = settings(&[
            ("NICMATRIX_ROOT", "/usr"),
            ("NEXTEST_WORKSPACE_ROOT", "/etc"),
            ("NEXTEST_RUN_ID", "1"),
            ("NEXTEST", "1"),
        ])
        .unwrap();
        assert_eq!(s.root, Path::new("/etc"));
        assert_eq!((s.run.as_deref(), s.nextest), (Some("1"), true));
        let named = settings(&[("NICMATRIX_RUN", "2"), ("NEXTEST_RUN_ID", "1")]);
        assert_eq!(named.unwrap().run.as_deref(), Some("2"));
    }

    #[test]
    fn bad_values() {
        let all: String = [
            ("NICMATRIX_ROOT", "/nowhere"),
            ("NICMATRIX_QEMU", "/nowhere/qemu"),
            ("NICMATRIX_QEMU", "/etc/passwd"),
            ("NICMATRIX_QEMU", "/etc"),
            ("NICMATRIX_QEMU", "new=qemu-nowhere"),
            ("NICMATRIX_QEMU", "new=/nowhere"),
            ("NICMATRIX_QEMU", "a b"),
            ("NICMATRIX_FIRMWARE", "/usr:/nowhere"),
            ("NICMATRIX_ACCEL", "kmv"),
            ("NICMATRIX_BOOTS", "1"),
        ]
        .map(|(name, value)| complaint(name, value) + "\n")
        .concat();
        insta::assert_snapshot!(all, @r"
        NICMATRIX_ROOT: cannot find /nowhere: No such file or directory (os error 2)
        --qemu (NICMATRIX_QEMU): there is no file /nowhere/qemu; the package qemu-system-x86 brings /usr/bin/qemu-system-x86_64
        --qemu (NICMATRIX_QEMU): /etc/passwd is not an executable file
        --qemu (NICMATRIX_QEMU): /etc is not an executable file
        --qemu (NICMATRIX_QEMU) is `qemu-nowhere`, but no such program is on PATH
        --qemu (NICMATRIX_QEMU): there is no file /nowhere; the package qemu-system-x86 brings /usr/bin/qemu-system-x86_64
        NICMATRIX_QEMU is `a b`, expected PATH, NAME=PATH or NAME,…; a name has letters, digits, `_`, `-` and `.`
        --firmware (NICMATRIX_FIRMWARE): there is no directory /nowhere; expected QEMU's -L directories, in the variable separated by `:`
        NICMATRIX_ACCEL: unknown value `kmv`, did you mean `kvm`? (allowed: auto, kvm, tcg)
        NICMATRIX_BOOTS: unknown setting `BOOTS`, did you mean `BOOT`? (allowed: PROFILE, MATRIX, QEMU, FIRMWARE, ACCEL, HOST, ALLOW_MODULE_RELOAD, BOOT, FAULTS, SHARD, DURATIONS, NIC, GUEST, BACKEND, CASE, FILTER, SKIP, EXACT, RETRIES, CONFIRM, FLAKY_RESULT, JUNIT, MESSAGE_FORMAT, STRICT, SHELL, TABLE, SHOW, DIR)
        ");
    }

    #[test]
    fn what_differs_from_the_defaults_is_reproduced() {
        let again = |given: &[(&str, &str)]| settings(given).unwrap().reproduce("driver!a::b");
        let usual = |given: &[(&str, &str)]| again(given).replace(" --qemu '/bin/sh'", "");
        assert_eq!(
            again(&[]),
            "cargo xtask repro 'driver!a::b' --qemu '/bin/sh'"
        );
        let added = "/bin/sh:a=/bin/true:other=/bin/true";
        assert_eq!(
            usual(&[("NICMATRIX_QEMU", added)]),
            "cargo xtask repro 'driver!a::b' --qemu 'a=/bin/true'"
        );
        let default = [("NICMATRIX_PROFILE", "smoke"), ("NICMATRIX_ACCEL", "auto")];
        assert_eq!(usual(&default), "cargo xtask repro 'driver!a::b'");
        let given = [
            ("NICMATRIX_PROFILE", "full"),
            ("NICMATRIX_MATRIX", "/etc/m.toml"),
            ("NICMATRIX_QEMU", "/bin/sh:new=/bin/true:new,trixie"),
            ("NICMATRIX_FIRMWARE", "/usr:/etc"),
            ("NICMATRIX_ACCEL", "tcg"),
            ("NICMATRIX_HOST", "direct"),
            ("NICMATRIX_ALLOW_MODULE_RELOAD", "1"),
            ("NICMATRIX_BOOT", "1"),
        ];
        insta::assert_snapshot!(usual(&given), @"cargo xtask repro 'driver!a::b' --profile 'full' --matrix '/etc/m.toml' --qemu 'new=/bin/true' --qemu 'new,trixie' --firmware '/usr' --firmware '/etc' --accel 'tcg' --host 'direct' --allow-module-reload --boot");
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
            qemu(Some(Path::new("sh")), "/nowhere:/bin", &[], root).unwrap(),
            Path::new("/bin/sh")
        );
        let none = found("/nowhere", &["/nowhere/a", "/nowhere/b"]).unwrap_err();
        insta::assert_snapshot!(none, @"there is no QEMU: no qemu-system-x86_64 on PATH, and none of /nowhere/a, /nowhere/b; install the package qemu-system-x86 (on RHEL qemu-kvm), or name one with --qemu (NICMATRIX_QEMU)");
    }
}
