//! The QEMUs of a run, each with what it has.

mod fetch;

use super::qemu_facts::{self, QemuFacts};
use crate::base::error::Skip;
use crate::matrix::schema::{Matrix, QemuSource};
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

    /// Those of the axis of `matrix`. A suite's is fetched where it is not there.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`], when one does not answer as a QEMU.
    pub fn of(settings: &Settings, matrix: &Matrix) -> Result<Qemus> {
        let mut qemus = Qemus::default_of(settings)?;
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
                Ok(tested) => Ok(tested),
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

fn ask(settings: &Settings, qemu: Qemu) -> Result<TestedQemu> {
    let facts = qemu_facts::facts(&qemu, &settings.host_cache())?;
    Ok(TestedQemu { qemu, facts })
}
