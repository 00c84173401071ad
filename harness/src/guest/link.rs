//! A NIC as the guest sees it, found by its MAC.

use super::agent::Agent;
use crate::base::deadline;
use crate::net::addr::Mac;
use anyhow::{Context, bail};
use std::collections::BTreeMap;

/// What sysfs says of a network interface that has a device behind it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Link {
    /// For example `eth0`.
    pub name: String,
    /// Hardware address.
    pub mac: Mac,
    /// `up`, `down`, `unknown` … (RFC 2863 by way of sysfs-class-net).
    pub operstate: String,
    /// Bytes.
    pub mtu: u32,
    /// The bound PCI (or virtio) driver.
    pub driver: String,
    /// The PCI function, for example `0000:00:03.0`; a USB NIC's is its controller's.
    pub pci: String,
    /// A USB NIC's port at that controller, for example `1`.
    pub usb_port: Option<String>,
}

impl Link {
    /// The device as `ethtool -i` calls it (kernel: `pci_name`, `usb_make_path`).
    pub fn bus_info(&self) -> String {
        match &self.usb_port {
            Some(port) => format!("usb-{}-{port}", self.pci),
            None => self.pci.clone(),
        }
    }
}

/// With few forks: they are what costs under TCG. (busybox's readlink takes one path.) What is being unplugged
/// no longer answers, and is passed over.
const SCRIPT: &str = r#"for d in /sys/class/net/*; do [ -e $d/device ] || continue
read -r a <$d/address && read -r o <$d/operstate && read -r m <$d/mtu || continue
echo "${d##*/} $a $o $m $(readlink -f $d/device/driver) $(readlink -f $d/device)"; done"#;

/// All interfaces with a device behind them.
///
/// # Errors
/// The agent's; output that does not parse.
pub fn links(agent: &Agent) -> anyhow::Result<Vec<Link>> {
    parse(&agent.sh(SCRIPT)?)
}

fn parse(text: &str) -> anyhow::Result<Vec<Link>> {
    text.lines()
        .map(|line| {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [name, mac, operstate, mtu, driver, device] = words[..] else {
                bail!("the guest's sysfs shows an interface as {line:?}");
            };
            let last = |path: &str| path.rsplit('/').next().unwrap_or(path).to_owned();
            // A virtio device is a child of its PCI function; a USB one's interface (`2-1:1.0`) of the
            // device on a port (`2-1`) of a bus (`usb2`) of that function.
            let mut above = device.rsplit('/').skip_while(|part| !part.contains(':'));
            let mut pci = above.next().unwrap_or(device);
            let mut usb_port = None;
            if pci.contains('-') {
                let port = above.next().and_then(|part| part.split_once('-'));
                usb_port = port.map(|(_, port)| port.to_owned());
                pci = above.nth(1).unwrap_or(device);
            }
            Ok(Link {
                name: name.into(),
                mac: mac.parse()?,
                operstate: operstate.into(),
                mtu: mtu.parse().with_context(|| format!("mtu {mtu:?}"))?,
                driver: last(driver),
                pci: pci.into(),
                usb_port,
            })
        })
        .collect()
}

/// The shell condition "an interface with this MAC and a device is there".
fn present(mac: Mac) -> String {
    format!("grep -qi {mac} /sys/class/net/*/address 2>/dev/null")
}

/// Waits for the interface with `mac`.
///
/// # Errors
/// After [`deadline::LINK_APPEARS`], with the interfaces that are there instead; more than one
/// interface with that MAC.
pub fn await_link(agent: &Agent, mac: Mac) -> anyhow::Result<Link> {
    let text = agent.once(
        &present(mac),
        deadline::LINK_APPEARS,
        "cd /sys/class/net && grep . */address",
        SCRIPT,
    )?;
    let mut found = parse(&text)?;
    found.retain(|link| link.mac == mac);
    match found.len() {
        1 => Ok(found.remove(0)),
        n => bail!("{n} interfaces of the guest have the MAC {mac}: {found:?}"),
    }
}

/// Waits until no interface has `mac`.
///
/// # Errors
/// After [`deadline::LINK_GOES`].
pub fn await_no_link(agent: &Agent, mac: Mac) -> anyhow::Result<()> {
    agent.until(
        &format!("! {}", present(mac)),
        deadline::LINK_GOES,
        "cd /sys/class/net && grep . */address",
    )
}

/// `key: value` lines of a tool such as `ethtool -i`, by key.
pub fn fields(text: &str) -> BTreeMap<String, String> {
    text.lines()
        .filter_map(|line| line.split_once(':'))
        .map(|(key, value)| (key.trim().to_owned(), value.trim().to_owned()))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_virtio_nic_is_named_by_its_pci_function() {
        let text = "eth0 52:54:00:aa:bb:cc up 1500 /sys/bus/virtio/drivers/virtio_net \
                    /sys/devices/pci0000:00/0000:00:04.0/virtio1 \n";
        let links = parse(text).expect("parses");
        assert_eq!(links[0].mac.to_string(), "52:54:00:aa:bb:cc");
        assert_eq!(links[0].pci, "0000:00:04.0");
        assert_eq!(links[0].driver, "virtio_net");
        assert_eq!(links[0].mtu, 1500);
    }

    #[test]
    fn a_usb_nic_is_named_by_its_controller_and_port() {
        let text = "usb0 52:54:00:aa:bb:cc unknown 1500 /sys/bus/usb/drivers/rndis_host \
                    /sys/devices/pci0000:00/0000:00:05.0/usb2/2-1/2-1:2.0\n";
        let links = parse(text).expect("parses");
        assert_eq!(links[0].pci, "0000:00:05.0");
        assert_eq!(links[0].bus_info(), "usb-0000:00:05.0-1");
    }

    #[test]
    fn an_interface_without_a_driver_is_an_error_not_a_guess() {
        assert!(parse("eth0 52:54:00:aa:bb:cc up 1500\n").is_err());
    }

    #[test]
    fn ethtool_fields_keep_colons_in_values() {
        let map = fields("driver: e1000\nbus-info: 0000:00:03.0\nexpansion-rom-version: \n");
        assert_eq!(map["bus-info"], "0000:00:03.0");
        assert_eq!(map["expansion-rom-version"], "");
    }
}
