//! Plan item 11: what the NIC offloads.

use super::faults::{self, AT_START, in_guest};
use super::{Case, Fault, Red, StartState};
use crate::matrix::offload::OFFLOADS;
use crate::testbed::Testbed;
use anyhow::{Context, ensure};
use std::collections::BTreeMap;

/// Kernel rule (`netdev_fix_features`): the first is never on without the second.
const NEEDS: [(&str, &str); 3] = [("sg", "tx"), ("tso", "sg"), ("gso", "sg")];

/// What virtio must have negotiated for an offload to be on: short name, feature bit, QEMU property
/// (virtio 1.2, 5.1.3).
const VIRTIO_BITS: [(&str, usize, &str); 3] = [
    ("tx", 0, "csum"),
    ("rx", 1, "guest_csum"),
    ("tso", 11, "host_tso4"),
];

/// Plan item 11.
pub static OFFLOAD_QUERY: Case = Case {
    name: "offload_query",
    plan_item: "11",
    passes: "`ethtool -k` reports all eight offloads (ufo where the kernel still has it), the model's usual ones are on, none is on without what it needs, and on virtio they agree with the negotiated feature bits and QEMU's properties",
    start_state: StartState::ColdDriver,
    faults: &[
        Fault {
            name: "tx_off",
            breaks: "tx checksumming is switched off in the guest",
            applies: |cell| cell.nic.offloads.iter().any(|name| name == "tx"),
            inject: |bed| in_guest(bed, "ethtool -K DEV tx off").map(drop),
            red: Red::Says("tx-checksumming is off"),
            ..AT_START
        },
        Fault {
            name: "csum_off",
            breaks: "QEMU offers no checksum offload",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("csum=off".into()),
            red: Red::Says("tx-checksumming is off"),
            ..AT_START
        },
    ],
    run: offload_query,
    ..Case::PLAIN
};

/// How `ethtool -k` marks what cannot be changed.
const FIXED: &str = "[fixed]";

/// One line of `ethtool -k`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct State {
    /// On or off.
    pub on: bool,
    /// Cannot be changed: it says so, as do all parts of it, or what it needs is off for good.
    pub fixed: bool,
}

/// The eight offloads by short name. Kernels from 4.14 on have no UFO and do not list it: it is
/// then off for good.
///
/// # Errors
/// Which one is missing or neither on nor off.
pub fn parse(text: &str) -> anyhow::Result<BTreeMap<&'static str, State>> {
    let fields = crate::guest::link::fields(text);
    let mut states = OFFLOADS
        .iter()
        .map(|&(short, long)| {
            // Old releases print "tcp segmentation offload".
            let value = fields
                .get(long)
                .or_else(|| fields.get(&long.replace('-', " ")));
            let value = match value {
                None if short == "ufo" => "off [fixed]",
                value => value.with_context(|| format!("`ethtool -k` has no {long}: {text}"))?,
            };
            let on = match value.split_whitespace().next() {
                Some("on") => true,
                Some("off") => false,
                _ => anyhow::bail!("`ethtool -k` says {long}: {value:?}"),
            };
            Ok((
                short,
                State {
                    on,
                    fixed: value.contains(FIXED) || parts_are_fixed(text, long),
                },
            ))
        })
        .collect::<anyhow::Result<BTreeMap<_, State>>>()?;
    for (feature, needed) in NEEDS {
        let State { on, fixed } = states[needed];
        if fixed
            && !on
            && let Some(state) = states.get_mut(feature)
        {
            state.fixed = true;
        }
    }
    Ok(states)
}

/// Whether `ethtool -k` lists parts of it, further in, and each as fixed; it does not say so of the
/// whole.
fn parts_are_fixed(text: &str, long: &str) -> bool {
    let mut parts = text
        .lines()
        .skip_while(|line| !line.starts_with(long))
        .skip(1)
        .take_while(|line| line.starts_with(char::is_whitespace))
        .peekable();
    parts.peek().is_some() && parts.all(|line| line.contains(FIXED))
}

/// Reads all offloads. Those that the model usually has must be on, and none without what it builds on.
/// On virtio each that is on must have been offered by QEMU and negotiated.
fn offload_query(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.link()?;
    let states = parse(&bed.agent.sh(&format!("ethtool -k {}", link.name))?)?;
    let long = |short: &str| {
        OFFLOADS
            .iter()
            .find(|(s, _)| *s == short)
            .map_or("?", |(_, l)| l)
    };
    for name in &bed.cell.nic.offloads {
        let on = states.get(name.as_str()).is_some_and(|state| state.on);
        ensure!(
            on,
            "{} is off; {} has it on by default",
            long(name),
            bed.cell.nic.name
        );
    }
    for (feature, needed) in NEEDS {
        ensure!(
            !states[feature].on || states[needed].on,
            "{} is on although {} is off",
            long(feature),
            long(needed)
        );
    }
    if bed.cell.nic.is_virtio() {
        let directory = Testbed::device_directory(&link);
        let bits = bed.agent.sh(&format!("cat {directory}/features"))?;
        for (short, bit, property) in VIRTIO_BITS {
            let negotiated = bits.as_bytes().get(bit) == Some(&b'1');
            let path = format!("/machine/peripheral/{}", bed.nic().id);
            let offered = bed
                .vm
                .call(&qapi::qmp::qom_get {
                    path,
                    property: property.into(),
                })?
                .as_bool()
                .with_context(|| format!("QEMU's property {property} is no bool"))?;
            ensure!(
                !states[short].on || (negotiated && offered),
                "{} is on, but feature bit {bit} is negotiated: {negotiated}, and QEMU's {property} is {offered}",
                long(short)
            );
        }
    }
    let words = states.iter().map(|(name, state)| {
        let fixed = if state.fixed { " [fixed]" } else { "" };
        format!("{name} {}{fixed}", if state.on { "on" } else { "off" })
    });
    bed.notes.push(words.collect::<Vec<_>>().join(", "));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fixed_offloads_and_old_spellings_are_read() {
        let text = "Features for eth0:\nrx-checksumming: on [fixed]\ntx-checksumming: on\n\ttx-checksum-ipv4: off [fixed]\nscatter-gather: on\ntcp segmentation offload: on\nudp-fragmentation-offload: off\ngeneric-segmentation-offload: on\ngeneric-receive-offload: on\nlarge-receive-offload: off [fixed]\n";
        let states = parse(text).expect("parses");
        assert_eq!(
            states["rx"],
            State {
                on: true,
                fixed: true
            }
        );
        assert_eq!(
            states["tso"],
            State {
                on: true,
                fixed: false
            }
        );
        assert_eq!(
            states["lro"],
            State {
                on: false,
                fixed: true
            }
        );
    }

    #[test]
    fn a_whole_is_fixed_with_all_its_parts_and_what_needs_it_too() {
        // ne2k-pci has no checksumming, and so nothing that builds on it.
        let text = "Features for eth0:\nrx-checksumming: off [fixed]\ntx-checksumming: off\n\ttx-checksum-ipv4: off [fixed]\n\ttx-checksum-sctp: off [fixed]\nscatter-gather: off\n\ttx-scatter-gather: off [fixed]\ntcp-segmentation-offload: off\n\ttx-tcp-segmentation: off [fixed]\n\ttx-tcp-ecn-segmentation: off\ngeneric-segmentation-offload: off [requested on]\ngeneric-receive-offload: on\nlarge-receive-offload: off [fixed]\n";
        let states = parse(text).expect("parses");
        let fixed: Vec<_> = (states.iter())
            .filter_map(|(name, state)| state.fixed.then_some(*name))
            .collect();
        assert_eq!(fixed, ["gso", "lro", "rx", "sg", "tso", "tx", "ufo"]);
    }

    #[test]
    fn a_missing_offload_is_an_error() {
        let error = parse("rx-checksumming: on\n").expect_err("seven are missing");
        assert!(error.to_string().contains("tx-checksumming"), "{error}");
    }
}
