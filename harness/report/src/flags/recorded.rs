//! The settings as a run's first event holds them, and what they mean to a trial.

use super::{BadSetting, Conditions, Only, cannot_hand_on};
use crate::name::TrialName;
use clap::{Args, Command};
use serde::Serialize;
use serde::de::DeserializeOwned;
use serde_json::Value;
use std::collections::BTreeMap;

impl Conditions {
    /// Those that are set, by name, as a run's first event holds them.
    ///
    /// # Errors
    /// A path that is not UTF-8.
    pub fn recorded(&self) -> Result<BTreeMap<String, Value>, BadSetting> {
        recorded(self)
    }

    /// From what a run's first event holds, and the names of those that this version does not know, or
    /// not with that value.
    pub fn of_recorded(recorded: &BTreeMap<String, Value>) -> (Conditions, Vec<String>) {
        of_recorded(recorded)
    }

    /// Those that are set as flags, each with its value unless it is a switch.
    pub fn as_flags(&self) -> Vec<(String, Option<String>)> {
        let values = serde_json::to_value(self).unwrap_or_default();
        let command = Conditions::augment_args(Command::new("conditions"));
        let mut flags = Vec::new();
        for argument in command.get_arguments() {
            let flag = format!("--{}", argument.get_long().unwrap_or_default());
            let text = |value: &Value| value.as_str().map(str::to_owned);
            match &values[argument.get_id().as_str()] {
                Value::Null | Value::Bool(false) => {}
                Value::Array(items) => {
                    flags.extend(items.iter().map(|item| (flag.clone(), text(item))));
                }
                value => flags.push((flag, text(value))),
            }
        }
        flags
    }
}

impl Only {
    /// Those that are set, by name, as a run's first event holds them.
    ///
    /// # Errors
    /// None that a name can cause.
    pub fn recorded(&self) -> Result<BTreeMap<String, Value>, BadSetting> {
        recorded(self)
    }

    /// From what a run's first event holds; what this version does not know chooses nothing.
    pub fn of_recorded(recorded: &BTreeMap<String, Value>) -> Only {
        of_recorded(recorded).0
    }

    /// Whether a trial with that name and these parts is asked for.
    pub fn takes(&self, name: &str, parts: &TrialName) -> bool {
        self.takes_axes(parts) && self.takes_name(name)
    }

    /// Whether the axes of a trial with these parts have values that are asked for.
    pub fn takes_axes(&self, parts: &TrialName) -> bool {
        let takes = |given: &[String], value: &String| given.is_empty() || given.contains(value);
        takes(&self.nic, &parts.nic)
            && takes(&self.guest, &parts.guest)
            && takes(&self.backend, &parts.backend)
            && takes(&self.case, &parts.case)
    }

    /// Whether one of the filters selects `name` and it is not to be left out; without a filter, all are
    /// selected.
    pub fn takes_name(&self, name: &str) -> bool {
        let selected = self.filter.is_empty() || self.filter.iter().any(|f| self.selects(f, name));
        selected && !self.skip.iter().any(|text| name.contains(text.as_str()))
    }

    /// Whether `filter`, of these, selects `name`.
    pub fn selects(&self, filter: &str, name: &str) -> bool {
        match self.exact {
            true => name == filter,
            false => name.contains(filter),
        }
    }
}

fn recorded(settings: &impl Serialize) -> Result<BTreeMap<String, Value>, BadSetting> {
    let all = serde_json::to_value(settings).map_err(cannot_hand_on)?;
    let Value::Object(all) = all else {
        return Ok(BTreeMap::new());
    };
    let is_set = |value: &Value| match value {
        Value::Null | Value::Bool(false) => false,
        Value::Array(items) => !items.is_empty(),
        _ => true,
    };
    Ok(all.into_iter().filter(|(_, value)| is_set(value)).collect())
}

fn of_recorded<T: DeserializeOwned + Default>(
    recorded: &BTreeMap<String, Value>,
) -> (T, Vec<String>) {
    let is_known = |(name, value): &(&String, &Value)| {
        let one = Value::Object([((*name).clone(), (*value).clone())].into_iter().collect());
        serde_json::from_value::<T>(one).is_ok()
    };
    let (known, unknown): (Vec<_>, Vec<_>) = recorded.iter().partition(is_known);
    let known = known.into_iter().map(|(k, v)| (k.clone(), v.clone()));
    let settings = serde_json::from_value(Value::Object(known.collect()));
    let unknown = unknown.into_iter().map(|(name, _)| name.clone());
    (settings.unwrap_or_default(), unknown.collect())
}
