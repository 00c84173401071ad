//! A trial's name, `case::nic::guest::backend`; `case@boot::…` from a boot where others are restored,
//! `case!fault::…` under a fault.

use super::Backend;
use std::fmt;

/// Follows a case's name where it boots.
const BOOT: &str = "@boot";

/// The parts of a trial's name.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct TrialName<'a> {
    /// The case.
    pub case: &'a str,
    /// Whether it boots although the case would be restored from a checkpoint.
    pub boot: bool,
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
        let (case, boot) = match case.strip_suffix(BOOT) {
            Some(case) => (case, true),
            None => (case, false),
        };
        let empty = [Some(case), fault, Some(nic), Some(guest)].contains(&Some(""));
        if parts.next().is_some() || empty {
            return None;
        }
        Some(TrialName {
            case,
            boot,
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
        if self.boot {
            f.write_str(BOOT)?;
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
            for (boot, fault) in [(false, None), (true, None), (false, Some("unbound"))] {
                let name = TrialName {
                    case: "driver",
                    boot,
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
            "!f::e1000::rhel6::tap",
        ] {
            assert_eq!(TrialName::parse(text), None, "{text}");
        }
    }
}
