//! What a NIC tells of its link, and of its EEPROM and registers, and what it makes of other settings.

mod drivers;

use super::faults::{self, AT_START, IN_TRAFFIC, ignore, in_guest};
use super::rings::{self, MIB};
use super::transfer::{self, ALTERED};
use super::{Case, Fault, Moment, Red};
use crate::base::deadline;
use crate::guest::dialect::Op;
use crate::guest::link::{Link, fields};
use crate::matrix::Cell;
use crate::net::addr::Mac;
use crate::net::transfer::blocks;
use crate::testbed::Testbed;
use crate::vm::cmdline::VmSpec;
use anyhow::{Context as _, ensure};
use drivers::{Driver, Restart, VIRTIO, driver};

/// The link's settings.
pub static LINK_SETTINGS: Case = Case {
    name: "link_settings",
    passes: "`ethtool DEV`, its `-a` and sysfs tell of speed, duplex, negotiation, port and pause frames what the model has, `-e` shows the NIC's MAC in the EEPROM and `-d` its registers; the link comes back from `-r` and from each other setting that `-s` takes, reads back, and carries full frames and files both ways with their SHA-256",
    applies: |cell| driver(cell).is_some() && !tells_nothing(cell),
    rearm: Some(faults::nothing),
    vm: |spec| tell(spec),
    ops: &[Op::Address],
    seconds: |_| 90.0,
    faults: &[
        Fault {
            name: "other_speed",
            breaks: "QEMU's NIC tells the guest another speed",
            applies: faults::virtio,
            vm: |spec, _| spec.nics[0].properties.push("speed=10000".into()),
            red: Red::Says("the link's settings are"),
            ..AT_START
        },
        Fault {
            name: "link_down",
            breaks: "QEMU takes the NIC's link away",
            applies: |cell| TELLS_AT_ONCE.contains(&cell.nic.driver.as_str()),
            inject: |bed| bed.set_link(false),
            red: Red::Says("the link's settings are"),
            ..IN_TRAFFIC
        },
        Fault {
            name: "no_pause",
            breaks: "the guest has switched off pause frames",
            applies: |cell| driver(cell).is_some_and(|driver| driver.pause.is_some()),
            inject: |bed| in_guest(bed, "ethtool -A DEV autoneg off rx off tx off").map(drop),
            red: Red::Says("pause frames"),
            ..AT_START
        },
        Fault {
            name: "other_eeprom",
            breaks: "the guest's ethtool shows the EEPROM with another byte",
            applies: |cell| driver(cell).is_some_and(|driver| driver.eeprom.is_some()),
            inject: |bed| faults::wrap(bed, "ethtool", &altered("-e")),
            red: Red::Says("the EEPROM has"),
            ..AT_START
        },
        Fault {
            name: "other_registers",
            breaks: "the guest's ethtool shows the registers with other numbers and words",
            applies: |cell| driver(cell).is_some_and(|driver| !driver.registers.is_empty()),
            inject: |bed| faults::wrap(bed, "ethtool", &altered("-d")),
            red: Red::Says("`ethtool -d` does not show"),
            ..AT_START
        },
        Fault {
            name: "not_restarted",
            breaks: "the guest's ethtool says that it restarted the negotiation and does not",
            applies: |cell| driver(cell).is_some_and(|driver| driver.restart == Restart::LinkGoes),
            inject: |bed| ignore(bed, "ethtool", "-r"),
            red: Red::Says("did not take the link away"),
            ..AT_START
        },
        Fault {
            name: "ignored",
            breaks: "the guest's ethtool says that it set the link and does not",
            applies: |cell| {
                let changes = |driver: &Driver| driver.changes.iter().any(|c| c.1 != driver.link);
                driver(cell).is_some_and(changes)
            },
            inject: |bed| ignore(bed, "ethtool", "-s"),
            red: Red::Says("autoneg off`"),
            ..AT_START
        },
        ALTERED,
        rings::FULL_LOST,
    ],
    run: link_settings,
    ..Case::PLAIN
};

/// Drivers that hear of `set_link` on every QEMU.
const TELLS_AT_ONCE: [&str; 3] = ["virtio_net", "8139cp", "e1000"];

/// ethtool, whose output under `option` has other digits and another end of each word.
fn altered(option: &str) -> String {
    format!(
        "[ \"$1\" = {option} ] || exec \"$REAL\" \"$@\"\n\
         \"$REAL\" \"$@\" | sed 's/5/6/g; s/er)/ed)/g; s/Ready/Reads/'"
    )
}

/// virtio 0.9 has no bit for it (VIRTIO_NET_F_SPEED_DUPLEX is the 63rd).
fn tells_nothing(cell: &Cell) -> bool {
    cell.nic.variant.property("disable-modern") == Some("on")
}

/// virtio has no speed but the one that it is given.
fn tell(spec: &mut VmSpec) {
    if let Some(nic) = spec.nics.first_mut()
        && nic.device.starts_with("virtio-net")
    {
        nic.properties.extend(VIRTIO.map(str::to_owned));
    }
}

/// Holds what the driver tells against what the model has. Then the negotiation is restarted, and each other setting
/// is made, must read back, and must leave a NIC that works.
fn link_settings(bed: &mut Testbed) -> anyhow::Result<()> {
    let link = bed.up()?;
    let driver = driver(&bed.cell).context("the driver tells nothing of its link")?;
    transfer::make_file(bed, blocks(MIB))?;
    bed.moment(Moment::Traffic)?;
    expect_link(bed, &link, driver.link)?;
    expect_sysfs(bed, &link, driver)?;
    expect_pause(bed, &link, driver)?;
    expect_eeprom(bed, &link, driver)?;
    expect_registers(bed, &link, driver)?;
    restart(bed, &link, driver)?;
    for (settings, expected) in driver.changes {
        let command = format!("ethtool -s {} {settings}", link.name);
        bed.agent.sh(&command)?;
        expect_link(bed, &link, expected)
            .and_then(|()| rings::crosses(bed))
            .with_context(|| format!("after `{command}`"))?;
    }
    // Also where nothing was changed.
    rings::crosses(bed)?;
    bed.expect_quiet_kernel()
}

/// Waits until the link is so.
fn expect_link(bed: &Testbed, link: &Link, expected: &str) -> anyhow::Result<()> {
    let show = format!(
        "ethtool {} | sed -n 's/^\\t\\(Speed\\|Duplex\\|Auto-negotiation\\|Port\\|Link detected\\): //p' | xargs",
        link.name
    );
    bed.agent
        .until(
            &format!("[ \"$({show})\" = '{expected}' ]"),
            deadline::LINK_SETTINGS,
            &show,
        )
        .with_context(|| format!("the link's settings are not {expected:?}"))
}

/// What the guest's sysfs says of the link's speed and duplex, or why it says nothing: some drivers know of neither.
///
/// # Errors
/// When the guest has no such interface.
pub(super) fn speed_and_duplex(bed: &Testbed, link: &Link) -> anyhow::Result<String> {
    let show = format!(
        "cd /sys/class/net/{} && cat speed duplex 2>&1 | xargs",
        link.name
    );
    Ok(bed.agent.sh(&show)?.trim().to_owned())
}

fn expect_sysfs(bed: &Testbed, link: &Link, driver: &Driver) -> anyhow::Result<()> {
    let files = speed_and_duplex(bed, link)?;
    ensure!(
        files == driver.sysfs,
        "sysfs has speed and duplex {files:?}, not {:?}",
        driver.sysfs
    );
    Ok(())
}

fn expect_pause(bed: &Testbed, link: &Link, driver: &Driver) -> anyhow::Result<()> {
    let Some(expected) = driver.pause else {
        return Ok(());
    };
    let text = bed.agent.sh(&format!("ethtool -a {}", link.name))?;
    let fields = fields(&text);
    let get = |name: &str| fields.get(name).map_or("", String::as_str);
    let pause = ["Autonegotiate", "RX", "TX"].map(get).join(" ");
    ensure!(
        pause == expected,
        "`ethtool -a` says of pause frames (negotiated, received, sent) {pause:?}, not {expected:?}"
    );
    Ok(())
}

/// The EEPROM has the MAC that QEMU gave the NIC.
fn expect_eeprom(bed: &Testbed, link: &Link, driver: &Driver) -> anyhow::Result<()> {
    let Some(offset) = driver.eeprom else {
        return Ok(());
    };
    let text = bed.agent.sh(&format!(
        "ethtool -e {} offset {offset} length 6",
        link.name
    ))?;
    let mac = in_eeprom(&text).with_context(|| format!("`ethtool -e` said: {text}"))?;
    ensure!(
        mac == bed.nic().mac,
        "the EEPROM has the MAC {mac} at its byte {offset}, not {}",
        bed.nic().mac
    );
    Ok(())
}

/// The first six bytes of `0x0000:  52 54 00 …`.
fn in_eeprom(text: &str) -> Option<Mac> {
    let line = text.lines().find(|line| line.starts_with("0x"))?;
    let bytes = line.split_once(':')?.1.split_whitespace().take(6);
    let bytes: Vec<u8> = bytes
        .map(|byte| u8::from_str_radix(byte, 16).ok())
        .collect::<Option<_>>()?;
    Some(Mac(bytes.try_into().ok()?))
}

fn expect_registers(bed: &Testbed, link: &Link, driver: &Driver) -> anyhow::Result<()> {
    if driver.registers.is_empty() {
        return Ok(());
    }
    let text = bed.agent.sh(&format!("ethtool -d {}", link.name))?;
    let mac = bed.nic().mac;
    for words in driver.registers {
        let words = with_mac(words, mac);
        ensure!(
            text.contains(&words),
            "`ethtool -d` does not show {words:?}: {text}"
        );
    }
    Ok(())
}

/// Puts the MAC in the place of these words.
fn with_mac(words: &str, Mac(mac): Mac) -> String {
    let number = |at: usize| format!("{:02x}{:02x}", mac[at + 1], mac[at]);
    let numbers = [0, 2, 4].map(number).join("  ");
    match words.strip_suffix("APROM ") {
        Some(before) => format!("{before}{numbers} "),
        None => words.replace(" MAC", &format!(" {}", Mac(mac))),
    }
}

/// The link goes and comes back, where the driver lets it.
fn restart(bed: &Testbed, link: &Link, driver: &Driver) -> anyhow::Result<()> {
    if driver.restart == Restart::None {
        return Ok(());
    }
    let count = format!("cat /sys/class/net/{}/carrier_changes", link.name);
    let before = bed.agent.sh(&count)?;
    let command = format!("ethtool -r {}", link.name);
    bed.agent.sh(&command)?;
    if driver.restart == Restart::LinkGoes {
        let more = format!("[ $({count}) -ge $(({} + 2)) ]", before.trim());
        bed.agent
            .until(&more, deadline::LINK_SETTINGS, &count)
            .with_context(|| {
                format!(
                    "`{command}` did not take the link away and bring it back: carrier_changes was {}",
                    before.trim()
                )
            })?;
    }
    expect_link(bed, link, driver.link)
        .and_then(|()| rings::crosses(bed))
        .with_context(|| format!("after `{command}`"))
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac([0x52, 0x54, 0, 0x12, 0x34, 0x56]);

    #[test]
    fn an_eeprom_begins_with_its_offset() {
        let text = "Offset\t\tValues\n------\t\t------\n0x000e:\t\t52 54 00 12 34 56 \n";
        assert_eq!(in_eeprom(text), Some(MAC));
        assert_eq!(in_eeprom("Offset\t\tValues\n0x0000:\t\t52 54\n"), None);
    }

    #[test]
    fn registers_have_a_mac_in_bytes_or_in_numbers() {
        assert_eq!(
            with_mac("address)  MAC", MAC),
            "address)  52:54:00:12:34:56"
        );
        assert_eq!(
            with_mac("APROM:   APROM ", MAC),
            "APROM:   5452  1200  5634 "
        );
    }
}
