//! A trial's name, `case::nic::guest::backend`; `case@variant::…` for a variant of the case (another
//! start, or a disruption), `case!fault::…` under a fault, `…::backend::QEMU` on another QEMU than the
//! default one.
//!
//! A name is made by [`TrialName`]'s `Display` and taken apart by [`TrialName::parse`]; no other code
//! knows its form.

use serde::{Deserialize, Serialize};
use std::fmt;

/// The parts of a trial's name.
#[derive(Debug, Clone, Default, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
// Absent in logs before schema 1.
#[serde(default)]
pub struct TrialName {
    /// The case.
    pub case: String,
    /// How it differs from the plain case: "boot", or what it goes on through.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
    /// The fault under which it runs.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub fault: Option<String>,
    /// The NIC model.
    pub nic: String,
    /// The guest.
    pub guest: String,
    /// The backend.
    pub backend: String,
    /// The QEMU, where it is not the default one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub qemu: Option<String>,
}

/// The name of the QEMU that the names of trials leave out.
pub const DEFAULT_QEMU: &str = "default";

impl TrialName {
    /// None where `text` is not of that form.
    pub fn parse(text: &str) -> Option<Self> {
        let parts: Vec<&str> = text.split("::").collect();
        let (case, nic, guest, backend, qemu) = match parts[..] {
            [case, nic, guest, backend] => (case, nic, guest, backend, None),
            [case, nic, guest, backend, qemu] => (case, nic, guest, backend, Some(qemu)),
            _ => return None,
        };
        let (case, fault) = split(case, '!');
        let (case, variant) = split(case, '@');
        let all = [
            Some(case),
            variant,
            fault,
            Some(nic),
            Some(guest),
            Some(backend),
            qemu,
        ];
        if all.contains(&Some("")) {
            return None;
        }
        Some(TrialName {
            case: case.to_owned(),
            variant: variant.map(str::to_owned),
            fault: fault.map(str::to_owned),
            nic: nic.to_owned(),
            guest: guest.to_owned(),
            backend: backend.to_owned(),
            qemu: qemu.map(str::to_owned),
        })
    }

    /// The parts of `text`; where it is not of the form of a name, all of it is the case.
    pub fn parse_or_case(text: &str) -> Self {
        TrialName::parse(text).unwrap_or_else(|| TrialName {
            case: text.to_owned(),
            ..TrialName::default()
        })
    }

    /// The QEMU's name, that of the default one too.
    pub fn qemu(&self) -> &str {
        self.qemu.as_deref().unwrap_or(DEFAULT_QEMU)
    }

    /// `case@variant`.
    pub fn case_and_variant(&self) -> String {
        match &self.variant {
            Some(variant) => format!("{}@{variant}", self.case),
            None => self.case.clone(),
        }
    }

    /// `case@variant!fault`, which is the row of a table whose columns are cells.
    pub fn row(&self) -> String {
        match &self.fault {
            Some(fault) => format!("{}!{fault}", self.case_and_variant()),
            None => self.case_and_variant(),
        }
    }
}

impl fmt::Display for TrialName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let TrialName {
            nic,
            guest,
            backend,
            ..
        } = self;
        write!(f, "{}::{nic}::{guest}::{backend}", self.row())?;
        match &self.qemu {
            Some(qemu) => write!(f, "::{qemu}"),
            None => Ok(()),
        }
    }
}

fn split(text: &str, at: char) -> (&str, Option<&str>) {
    match text.split_once(at) {
        Some((before, after)) => (before, Some(after)),
        None => (text, None),
    }
}

/// Whether a trial of that name runs under a fault. `text` may be misspelt, or a part of a name.
pub fn is_under_fault(text: &str) -> bool {
    text.contains('!')
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for name in [
            "driver::e1000::rhel6::tap",
            "driver@boot::e1000::rhel6::vhost",
            "driver!unbound::e1000::rhel6::tap",
            "driver@reload!unbound::e1000::rhel6::vhost_zcopy",
            "driver::e1000::rhel6::tap::trixie",
        ] {
            assert_eq!(TrialName::parse(name).unwrap().to_string(), name);
            assert_eq!(is_under_fault(name), name.contains("unbound"));
        }
        let name = "hotplug_qmp@boot!no_acpi::virtio::rhel9::vhost_zcopy";
        let expected = TrialName {
            case: "hotplug_qmp".into(),
            variant: Some("boot".into()),
            fault: Some("no_acpi".into()),
            nic: "virtio".into(),
            guest: "rhel9".into(),
            backend: "vhost_zcopy".into(),
            qemu: None,
        };
        assert_eq!(TrialName::parse(name), Some(expected));
    }

    #[test]
    fn other_texts_are_not_names() {
        for text in [
            "",
            "driver",
            "driver::e1000::rhel6",
            "driver::e1000::rhel6::",
            "driver::e1000::rhel6::tap::",
            "driver::e1000::rhel6::tap::x::y",
            "driver::::rhel6::tap",
            "driver!::e1000::rhel6::tap",
            "driver@::e1000::rhel6::tap",
            "!f::e1000::rhel6::tap",
        ] {
            assert_eq!(TrialName::parse(text), None, "{text}");
            assert_eq!(TrialName::parse_or_case(text).case, text);
        }
    }
}
