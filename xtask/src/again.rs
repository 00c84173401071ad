//! A kept run, to run some of it again: with its settings, and what differs here.

use crate::settings::Settings;
use crate::{BadInput, Workspace, runs};
use anyhow::{Result, bail};
use report::events::{Event, Outcome};
use report::flags::{Conditions, Only, QemuChoice};
use report::identity::Identity;
use report::{Results, Trial, errln, log, words};
use serde_json::Value;
use std::collections::BTreeMap;
use std::path::{Path, PathBuf};

/// A kept run.
pub struct Kept {
    /// Its event log.
    pub log: PathBuf,
    /// How it went.
    pub results: Results,
    /// What it was, where the log says so.
    pub identity: Option<Identity>,
    /// The conditions that were set; none in logs of before they were recorded.
    settings: Option<BTreeMap<String, Value>>,
}

impl Kept {
    /// The one run that the user means.
    ///
    /// # Errors
    /// [`BadInput`]: none, or several.
    pub fn find(workspace: &Workspace, text: &Path) -> Result<Kept> {
        Kept::read(&runs::locate(workspace, text)?)
    }

    /// The run that the user means, which has that trial; of several the newest.
    ///
    /// # Errors
    /// [`BadInput`]: no run, or none with that trial; with the nearest names.
    pub fn with_trial(workspace: &Workspace, text: &Path, trial: &str) -> Result<Kept> {
        let logs = runs::locate_all(workspace, text)?;
        let kept = logs.iter().map(|log| Kept::read(log));
        let kept: Vec<Kept> = kept.collect::<Result<_>>()?;
        let names: Vec<String> = (kept.iter().flat_map(|kept| &kept.results.trials))
            .map(|trial| trial.name().to_owned())
            .collect();
        let having = kept.into_iter().filter(|kept| kept.trial(trial).is_some());
        let newest = having.max_by_key(|kept| kept.results.unix_time);
        newest.ok_or_else(|| {
            let near = words::alike(trial, &names).into_iter();
            let near: Vec<&str> = near.map(|(_, name)| name.as_str()).take(3).collect();
            let hint = match near.as_slice() {
                [] => format!("it has {} others", names.len()),
                near => format!("nearest: {}", near.join(", ")),
            };
            let run = text.display();
            BadInput(format!("{run} has no trial `{trial}`; {hint}")).into()
        })
    }

    fn read(path: &Path) -> Result<Kept> {
        let lines = log::read(path).map_err(|error| BadInput(format!("{error:#}")))?;
        let started = lines.iter().find_map(|line| match &line.event {
            Event::RunStarted {
                identity, settings, ..
            } => Some((identity, settings)),
            _ => None,
        });
        let (identity, settings) = match started {
            Some((identity, settings)) => (identity.as_deref().cloned(), settings.clone()),
            None => (None, None),
        };
        Ok(Kept {
            log: path.to_owned(),
            results: Results::from_events(lines.iter().map(|line| &line.event)),
            identity,
            settings,
        })
    }

    /// Its trial of that name.
    pub fn trial(&self, name: &str) -> Option<&Trial> {
        let mut trials = self.results.trials.iter();
        trials.find(|trial| trial.name() == name)
    }

    /// The conditions under which it ran, and what of them this version does not know or the log does not
    /// hold, a sentence each.
    pub fn conditions(&self) -> (Conditions, Vec<String>) {
        let Some(settings) = &self.settings else {
            let conditions = Conditions {
                profile: self.results.properties.get("profile").cloned(),
                ..Conditions::default()
            };
            let lack = "its log was written by a version that did not record the settings: only the \
                        profile is taken over";
            return (conditions, vec![lack.into()]);
        };
        let (conditions, unknown) = Conditions::of_recorded(settings);
        let unknown = unknown.iter().map(|name| {
            format!("it was run with the setting `{name}`, which this version does not understand")
        });
        (conditions, unknown.collect())
    }
}

impl Settings {
    /// Takes over the conditions of a kept run where no flag was given, and says which.
    ///
    /// # Errors
    /// [`BadInput`]: a file of that run that is not here, and for which no flag was given.
    pub fn take_over(&mut self, workspace: &Workspace, kept: &Kept) -> Result<()> {
        let (mut of_run, lacks) = kept.conditions();
        lacks.iter().for_each(|lack| errln!("{lack}"));
        // It is for a machine that is thrown away after, as a pipeline's is.
        if std::mem::take(&mut of_run.allow_module_reload) && !self.conditions.allow_module_reload {
            errln!(
                "without --allow-module-reload, which that run had: give it where vhost_net may be reloaded here"
            );
        }
        ensure_here(&self.conditions, &of_run, &workspace.root)?;
        let flags: Vec<String> = of_run
            .as_flags()
            .into_iter()
            .map(|(flag, value)| flag + &value.map_or(String::new(), |value| format!(" {value}")))
            .collect();
        if !flags.is_empty() {
            errln!("with the settings of that run: {}", flags.join(" "));
        }
        self.under = of_run;
        Ok(())
    }
}

/// Fails where `of_run` names a file that is not here, and `given` none in its place.
fn ensure_here(given: &Conditions, of_run: &Conditions, root: &Path) -> Result<()> {
    let matrix = of_run.matrix.iter().filter(|_| given.matrix.is_none());
    let qemus = of_run.qemu.iter().filter(|_| given.qemu.is_empty());
    let qemus = qemus.filter_map(|qemu| match qemu {
        QemuChoice::Program(program) | QemuChoice::Added(_, program) => Some(program),
        QemuChoice::Names(_) => None,
    });
    let firmware = of_run.firmware.iter().filter(|_| given.firmware.is_empty());
    let all = (matrix.map(|file| ("matrix", file)))
        .chain(qemus.map(|file| ("qemu", file)))
        .chain(firmware.map(|directory| ("firmware", directory)));
    for (flag, path) in all {
        // A bare name is looked up in PATH.
        let is_path = path.to_string_lossy().contains('/') || flag == "matrix";
        if is_path && !root.join(path).exists() {
            bail!(BadInput(format!(
                "that run was made with --{flag} {}, which is not here: give --{flag}",
                path.display()
            )));
        }
    }
    Ok(())
}

/// The trials that were not green, of the axes that `only` asks for.
pub fn not_green(results: &Results, only: &Only) -> Vec<String> {
    let red = results.trials.iter().filter(|trial| {
        matches!(
            trial.outcome(),
            Outcome::Failed { .. }
                | Outcome::Broken { .. }
                | Outcome::Flaky { .. }
                | Outcome::Interrupted
        )
    });
    let red = red.filter(|trial| only.takes(trial.name(), trial.parts()));
    red.map(|trial| trial.name().to_owned()).collect()
}

/// Why [`not_green`] has none, in a sentence.
pub fn nothing_to_do(results: &Results, only: &Only) -> String {
    let all = results.trials.len();
    let of_axes = results
        .trials
        .iter()
        .filter(|trial| only.takes(trial.name(), trial.parts()));
    match of_axes.count() {
        _ if all == 0 => {
            "that run has no trial in its log: it was cut off before its plan was written".into()
        }
        0 if all > 0 => {
            format!("none of the {all} trials of that run is asked for: nothing to run")
        }
        asked => format!("all {asked} trials are green, known to fail or skipped: nothing to run"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use report::events::TrialEnded;

    fn results() -> Results {
        let message = || "lost".to_owned();
        let outcomes = [
            ("driver::e1000::rhel9::tap", Outcome::Passed),
            (
                "mtu_set::e1000::rhel9::tap",
                Outcome::Failed { message: message() },
            ),
            (
                "mtu_set::virtio::rhel9::tap",
                Outcome::Broken { message: message() },
            ),
            ("pxe::e1000::rhel9::tap", Outcome::Interrupted),
            (
                "pxe::virtio::rhel9::tap",
                Outcome::Flaky {
                    failures: vec![message()],
                },
            ),
            (
                "pxe::virtio::rhel9::vhost",
                Outcome::Skipped { reason: message() },
            ),
        ];
        let events = outcomes.map(|(trial, outcome)| {
            Event::TrialEnded(TrialEnded::unmeasured(trial.into(), outcome))
        });
        Results::from_events(&events)
    }

    #[test]
    fn what_was_not_green_is_chosen_and_axes_choose_among_it() {
        let all = not_green(&results(), &Only::default());
        assert_eq!(
            all,
            [
                "mtu_set::e1000::rhel9::tap",
                "mtu_set::virtio::rhel9::tap",
                "pxe::e1000::rhel9::tap",
                "pxe::virtio::rhel9::tap"
            ]
        );
        let virtio = Only {
            nic: vec!["virtio".into()],
            skip: vec!["mtu".into()],
            ..Only::default()
        };
        assert_eq!(not_green(&results(), &virtio), ["pxe::virtio::rhel9::tap"]);
        let green = Only {
            case: vec!["driver".into()],
            ..Only::default()
        };
        assert!(not_green(&results(), &green).is_empty());
        let said = nothing_to_do(&results(), &green);
        assert_eq!(
            said,
            "all 1 trials are green, known to fail or skipped: nothing to run"
        );
        let none = Only {
            nic: vec!["rtl8139".into()],
            ..Only::default()
        };
        let said = nothing_to_do(&results(), &none);
        assert_eq!(
            said,
            "none of the 6 trials of that run is asked for: nothing to run"
        );
    }

    #[test]
    fn a_file_that_is_not_here_is_named_unless_a_flag_takes_its_place() {
        let qemu = |text: &str| Conditions {
            qemu: vec![text.parse().unwrap()],
            ..Conditions::default()
        };
        let root = Path::new("/");
        let error = ensure_here(&Conditions::default(), &qemu("/nonexistent/qemu"), root);
        assert_eq!(
            error.unwrap_err().to_string(),
            "that run was made with --qemu /nonexistent/qemu, which is not here: give --qemu"
        );
        ensure_here(&qemu("/bin/sh"), &qemu("/nonexistent/qemu"), root).unwrap();
        for here in ["/bin/sh", "new=/bin/sh", "trixie,default", "qemu-kvm"] {
            ensure_here(&Conditions::default(), &qemu(here), root).unwrap();
        }
        let matrix = Conditions {
            matrix: Some("nonexistent.toml".into()),
            ..Conditions::default()
        };
        assert!(ensure_here(&Conditions::default(), &matrix, root).is_err());
    }
}
