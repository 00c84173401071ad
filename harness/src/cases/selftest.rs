//! What a NIC's driver makes of its NIC when it is asked to test it, and that the NIC works afterwards.

use super::faults::{self, AT_START, IN_TRAFFIC, NO_PING, wrap};
use super::rings::{self, MIB};
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::guest::dialect::Op;
use crate::guest::link::Link;
use crate::matrix::Cell;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use anyhow::{Context as _, ensure};

/// A part of a driver's test, and why QEMU's model cannot pass it, where that is so.
type Part = (&'static str, Option<&'static str>);

const NO_REGISTERS: Option<&str> =
    Some("QEMU's model has no room for what the driver writes to this register");
const NO_LOOPBACK: Option<&str> = Some("QEMU's model sends to its network, and not back to itself");

/// Drivers that test their NICs, with the parts of the test in their order (seen of e1000 and e1000e on QEMU 7.2 with Linux
/// 5.10, 6.1 and 6.12, of igb on 10.0 and 11.1).
static DRIVERS: [(&str, &[Part]); 5] = [
    (
        "e1000",
        &[
            ("Register test", NO_REGISTERS),
            ("Eeprom test", None),
            ("Interrupt test", None),
            ("Loopback test", NO_LOOPBACK),
            ("Link test", None),
        ],
    ),
    (
        "e1000e",
        &[
            ("Register test", NO_REGISTERS),
            ("Eeprom test", None),
            (
                "Interrupt test",
                Some(
                    "QEMU's model raises no interrupt for a cause that is written while it is masked",
                ),
            ),
            ("Loopback test", NO_LOOPBACK),
            ("Link test", None),
        ],
    ),
    (
        "igb",
        &[
            ("Register test", None),
            ("Eeprom test", None),
            ("Interrupt test", None),
            ("Loopback test", None),
            ("Link test", None),
        ],
    ),
    (
        "e100",
        &[
            ("Link test", None),
            ("Eeprom test", None),
            ("Self test", None),
            ("Mac loopback", NO_LOOPBACK),
            ("Phy loopback", NO_LOOPBACK),
        ],
    ),
    ("pcnet32", &[("Loopback test", None)]),
];

/// The parts of the test of the cell's driver, where it has one.
fn parts(cell: &Cell) -> Option<&'static [Part]> {
    let mut all = DRIVERS.iter();
    all.find(|(name, _)| *name == cell.nic.driver)
        .map(|(_, parts)| *parts)
}

/// The driver's own test.
pub static SELFTEST: Case = Case {
    name: "selftest",
    passes: "`ethtool -t` passes each part of the driver's own test that QEMU's model can pass, online and offline, and after either pings of full frames are answered and files cross both ways with their SHA-256",
    applies: |cell| parts(cell).is_some(),
    rearm: Some(faults::nothing),
    ops: &[Op::Address],
    seconds: |_| 60.0,
    faults: &[
        Fault {
            name: "link_down",
            breaks: "QEMU takes the NIC's link away",
            applies: |cell| ["e1000", "e1000e", "igb"].contains(&cell.nic.driver.as_str()),
            inject: |bed| bed.set_link(false),
            red: Red::Says("Link test ended with"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "failed",
            breaks: "the guest's ethtool shows what has passed as failed",
            inject: |bed| {
                let script = "[ \"$1\" = -t ] || exec \"$REAL\" \"$@\"\n\
                              \"$REAL\" \"$@\" | sed 's/ 0$/ 7/'";
                wrap(bed, "ethtool", script)
            },
            red: Red::Says("ended with 7"),
            ..AT_START
        },
        Fault {
            name: "not_run",
            breaks: "the guest's ethtool says that the test has passed, and does not run it",
            inject: |bed| {
                let script = "[ \"$1\" = -t ] || exec \"$REAL\" \"$@\"\n\
                              echo 'The test result is PASS'";
                wrap(bed, "ethtool", script)
            },
            red: Red::Says("has other parts"),
            ..AT_START
        },
        Fault {
            name: "left_down",
            breaks: "the NIC is down after the test",
            inject: |bed| {
                let script = "\"$REAL\" \"$@\"; [ \"$1\" = -t ] && ip link set dev \"$2\" down";
                wrap(bed, "ethtool", script)
            },
            red: NO_PING,
            ..AT_START
        },
        ALTERED,
        rings::FULL_LOST,
    ],
    run: selftest,
    ..Case::PLAIN
};

/// Online first, then offline, which takes the NIC from its users.
fn selftest(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    transfer::make_file(bed, blocks(MIB))?;
    bed.moment(Moment::Traffic)?;
    for how in ["online", "offline"] {
        test(bed, &link, how)?;
        rings::crosses(bed).with_context(|| format!("after the {how} test"))?;
    }
    bed.expect_quiet_kernel()
}

fn test(bed: &mut Testbed, link: &Link, how: &str) -> anyhow::Result<()> {
    let parts = parts(&bed.cell).context("the driver has no test")?;
    let command = format!("ethtool -t {} {how}", link.name);
    let output = bed.agent.run(&command)?;
    let results = parse(&output.stdout);
    let names: Vec<&str> = results.iter().map(|(name, _)| name.as_str()).collect();
    let expected: Vec<&str> = parts.iter().map(|(name, _)| *name).collect();
    ensure!(
        names == expected,
        "`{command}` has other parts than {expected:?}: {}",
        crate::guest::agent::said(&output)
    );
    for ((name, result), (_, excuse)) in results.iter().zip(parts) {
        match excuse {
            // It is not run online, and then has no result but 0.
            Some(why) if how == "offline" => {
                bed.notes.push(format!("{name}: {result} ({why})"));
            }
            _ => ensure!(*result == 0, "`{command}`: {name} ended with {result}"),
        }
    }
    Ok(())
}

/// Lines such as `Link test   (on/offline)    0`: name and result of each part.
fn parse(text: &str) -> Vec<(String, i64)> {
    let part = |line: &str| {
        let (name, rest) = line.split_once('(')?;
        let result = rest.split_once(')')?.1.trim().parse().ok()?;
        Some((name.trim().to_owned(), result))
    };
    text.lines().filter_map(part).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_part_has_its_result() {
        let text = "The test result is FAIL\nThe test extra info:\nLink test     (on/offline)\t 0\n\
                    Mac loopback     (offline)\t -11\n\n";
        let expected = [
            ("Link test".to_owned(), 0),
            ("Mac loopback".to_owned(), -11),
        ];
        assert_eq!(parse(text), expected);
    }
}
