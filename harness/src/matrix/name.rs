//! A trial's name, `case::nic::guest::backend`; `case@variant::…` where it starts otherwise or goes on,
//! `case!fault::…` under a fault.

use super::Backend;
use std::fmt;

/// The parts of a trial's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialName<'a> {
    /// The case.
    pub case: &'a str,
    /// How it differs from the plain case: `boot`, or a word of [`super::disruption`].
    pub variant: Option<&'a str>,
    /// The fault under which it runs.
    pub fault: Option<&'a str>,
    /// The NIC model.
    pub nic: &'a str,
    /// The guest.
    pub guest: &'a str,
    /// The backend.
    pub backend: Backend,
}

impl<'a> TrialName<'a> {
    /// None where `text` is not of that form.
    pub fn parse(text: &'a str) -> Option<Self> {
        let mut parts = text.split("::");
        let (case, nic, guest, backend) =
            (parts.next()?, parts.next()?, parts.next()?, parts.next()?);
        let (case, fault) = match case.split_once('!') {
            Some((case, fault)) => (case, Some(fault)),
            None => (case, None),
        };
        let (case, variant) = match case.split_once('@') {
            Some((case, variant)) => (case, Some(variant)),
            None => (case, None),
        };
        let empty = [Some(case), variant, fault, Some(nic), Some(guest)].contains(&Some(""));
        if parts.next().is_some() || empty {
            return None;
        }
        Some(TrialName {
            case,
            variant,
            fault,
            nic,
            guest,
            backend: Backend::from_name(backend)?,
        })
    }
}

impl fmt::Display for TrialName<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.case)?;
        if let Some(variant) = self.variant {
            write!(f, "@{variant}")?;
        }
        if let Some(fault) = self.fault {
            write!(f, "!{fault}")?;
        }
        write!(f, "::{}::{}::{}", self.nic, self.guest, self.backend)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for backend in Backend::ALL {
            for (variant, fault) in [(None, None), (Some("boot"), None), (None, Some("unbound"))] {
                let name = TrialName {
                    case: "driver",
                    variant,
                    fault,
                    nic: "e1000",
                    guest: "rhel6",
                    backend,
                };
                assert_eq!(TrialName::parse(&name.to_string()), Some(name));
            }
        }
        let name = TrialName::parse("hotplug_qmp!no_acpi::virtio::rhel9::vhost_zcopy").unwrap();
        assert_eq!(name.fault, Some("no_acpi"));
        assert_eq!(name.backend, Backend::VhostZcopy);
    }

    #[test]
    fn other_texts_are_no_names() {
        for text in [
            "",
            "driver",
            "driver::e1000::rhel6",
            "driver::e1000::rhel6::user",
            "driver::e1000::rhel6::tap::x",
            "driver::::rhel6::tap",
            "driver!::e1000::rhel6::tap",
            "driver@::e1000::rhel6::tap",
            "!f::e1000::rhel6::tap",
        ] {
            assert_eq!(TrialName::parse(text), None, "{text}");
        }
    }
}
