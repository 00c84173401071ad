//! The QEMUs of a run, each with what it has.

mod fetch;

use super::properties::{self, Refusal};
use super::qemu_facts::{self, QemuFacts};
use crate::base::error::Skip;
use crate::matrix::schema::{Machine, Matrix, MatrixError, Nic, QemuSource};
use crate::settings::Settings;
use crate::vm::qemu::Qemu;
use anyhow::Result;
use report::errln;
use report::name::DEFAULT_QEMU;
use serde::{Deserialize, Serialize};
use std::collections::BTreeMap;

/// A QEMU under test.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct TestedQemu {
    /// How it is started.
    pub qemu: Qemu,
    /// What it has.
    pub facts: QemuFacts,
    /// What it refuses of the matrix's NICs and machines, with its words, a sentence for skips.
    pub refuses: Vec<(String, Machine, String)>,
}

impl TestedQemu {
    /// Why it has no such NIC with its properties on such a machine.
    pub fn refusal(&self, nic: &Nic, machine: Machine) -> Option<&str> {
        let refused = self.refuses.iter();
        let mut of_it = refused.filter(|(name, on, _)| *name == nic.name && *on == machine);
        of_it.next().map(|(.., why)| why.as_str())
    }
}

/// A QEMU that a guest moves to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct OtherQemu {
    /// Its name.
    pub name: String,
    /// It, with what it has and refuses.
    pub tested: TestedQemu,
}

/// The QEMUs of a run by name; of one that cannot be had here, why, a sentence for skips. The default
/// one is always among them, as labs run under it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Qemus {
    /// The default one.
    pub default: TestedQemu,
    /// The others of the axis.
    pub others: BTreeMap<String, Result<TestedQemu, String>>,
}

impl Qemus {
    /// The default QEMU alone.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`], when it does not answer as a QEMU.
    pub fn default_of(settings: &Settings) -> Result<Qemus> {
        Ok(Qemus {
            default: ask(settings, Qemu::default_of(settings))?,
            others: BTreeMap::new(),
        })
    }

    /// Those of the axis of `matrix`. A suite's is fetched where it is not there. Each is asked for the
    /// properties of the matrix.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`], when one does not answer as a QEMU; a [`MatrixError`] of what the
    /// default one refuses: the user may well have no other, and no row of the axes is there to be skipped.
    pub fn of(settings: &Settings, matrix: &Matrix) -> Result<Qemus> {
        let mut qemus = Qemus::default_of(settings)?;
        let cache = settings.host_cache();
        let refusals = |TestedQemu { qemu, facts, .. }: &TestedQemu| {
            properties::refusals(qemu, facts, matrix, &cache)
        };
        if matrix.axes.qemu.iter().any(|name| name == DEFAULT_QEMU) {
            let TestedQemu { qemu, facts, .. } = &qemus.default;
            let refused = refusals(&qemus.default)?;
            let mistakes = refused
                .iter()
                .map(|one| one.mistake(&matrix.path, qemu, facts));
            let mistakes: Vec<String> = mistakes.collect();
            if !mistakes.is_empty() {
                return Err(MatrixError(mistakes).into());
            }
        }
        for name in matrix.axes.qemu.iter().filter(|name| *name != DEFAULT_QEMU) {
            let Some(source) = matrix.qemus.get(name) else {
                continue;
            };
            let say = |line: &str| errln!("{line}");
            let found = match source {
                QemuSource::Binary { program, firmware } => Ok(Qemu {
                    firmware: firmware.clone(),
                    ..Qemu::at(program.clone())
                }),
                QemuSource::Suite(suite) => fetch::ensure(&settings.qemus(), suite, &say),
            };
            let tested = match found.and_then(|qemu| ask(settings, qemu)) {
                Ok(mut tested) => {
                    let refused = refusals(&tested)?;
                    let why = |one: &Refusal| one.reason(&tested.facts);
                    let refuses = refused.iter();
                    tested.refuses = refuses
                        .map(|one| (one.nic.name.clone(), one.machine, why(one)))
                        .collect();
                    Ok(tested)
                }
                Err(error) => match error.downcast::<Skip>() {
                    Ok(Skip(why)) => Err(why),
                    Err(error) => return Err(error),
                },
            };
            qemus.others.insert(name.clone(), tested);
        }
        Ok(qemus)
    }

    /// The one of that name, or why there is none here.
    pub fn get(&self, name: &str) -> Result<&TestedQemu, &str> {
        match self.others.get(name) {
            Some(tested) => tested.as_ref().map_err(String::as_str),
            None => Ok(&self.default),
        }
    }

    /// Those that are there, each with its name, the default one first.
    pub fn iter(&self) -> impl Iterator<Item = (&str, &TestedQemu)> {
        let others = self.others.iter();
        let others = others.filter_map(|(name, tested)| Some((&**name, tested.as_ref().ok()?)));
        std::iter::once((DEFAULT_QEMU, &self.default)).chain(others)
    }
}

fn ask(settings: &Settings, mut qemu: Qemu) -> Result<TestedQemu> {
    let facts = qemu_facts::facts(&qemu, &settings.host_cache())?;
    qemu.sandbox = facts.sandbox;
    Ok(TestedQemu {
        qemu,
        facts,
        refuses: Vec::new(),
    })
}
