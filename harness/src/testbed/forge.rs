//! Frames put between a NIC and its tap, as if the one or the other had sent them: what no switch of QEMU's
//! models breaks.

use super::Testbed;
use crate::base::deadline::Limit;
use crate::net::forged::{self, Forged};
use crate::net::probe;
use crate::vm::cmdline::NicSpec;
use anyhow::Context as _;
use serde_json::json;
use std::io::Write as _;
use std::os::linux::net::SocketAddrExt as _;
use std::os::unix::net::{SocketAddr, UnixStream};
use std::time::Duration;

/// The filter's and its socket's name, which is the trial's own as its network is.
const NAME: &str = "forge0";
/// QEMU reads its socket in its main loop, milliseconds after it was written to.
const ON_TAP: Limit = Limit {
    what: "a forged frame on the tap",
    seconds: 10.0,
};
/// As [`ON_TAP`], and into the guest.
const IN_GUEST: Limit = Limit {
    what: "a forged frame in the guest",
    seconds: 10.0,
};

/// Bytes of `struct virtio_net_hdr` and its successors that the NIC's model puts before a frame for a tap.
fn header(nic: &NicSpec) -> usize {
    let has = |property: &str| nic.properties.iter().any(|own| own == property);
    match nic.device.as_str() {
        _ if nic.bare_tap => 0,
        virtio if virtio.starts_with("virtio-net") => {
            match has("mrg_rxbuf=off") && has("disable-modern=on") {
                true => 10,
                false => 12,
            }
        }
        "e1000e" | "igb" | "vmxnet3" => 10,
        _ => 0,
    }
}

impl Testbed {
    /// Has QEMU pass `frames` to the tap of the NIC under test by a `filter-redirector`, which only a tap without
    /// vhost can have, and waits until they have passed.
    ///
    /// # Errors
    /// QEMU's refusal; when they do not come.
    pub fn forge(&self, frames: &[Forged]) -> anyhow::Result<()> {
        let nic = self.nic();
        let wire = self.wire()?;
        let mark = wire.mark()?;
        let marked = [frames, &[forged::marker(nic.mac)]].concat();
        let _open = self.redirect("rx", &marked)?;
        let limit = ON_TAP.start();
        wire.wait(mark, limit, |frame| {
            frame.ethertype() == Some(probe::ETHERTYPE) && frame.src() == Some(nic.mac)
        })?;
        Ok(())
    }

    /// As [`Testbed::forge`], to the NIC under test, as if they came from its tap, and waits until its driver has
    /// handed one up.
    ///
    /// # Errors
    /// QEMU's refusal; when none is handed up.
    pub fn forge_to_guest(&self, frames: &[Forged]) -> anyhow::Result<()> {
        let read = format!("cat {}", Testbed::rx_packets(&self.link()?));
        let before = self.agent.sh(&read)?;
        let _open = self.redirect("tx", frames)?;
        let moved = format!("[ $({read}) -gt {} ]", before.trim());
        self.agent.until(&moved, IN_GUEST, &read)
    }

    /// Has QEMU hold back what comes for the NIC under test, and let it go at the end of each such interval
    /// (`filter-buffer`), which only a tap without vhost can have.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn hold_back(&self, interval: Duration) -> anyhow::Result<()> {
        let filter = json!({
            "qom-type": "filter-buffer",
            "id": format!("{NAME}-buffer"),
            "netdev": self.nic().netdev_id(),
            "queue": "tx",
            "interval": u32::try_from(interval.as_micros())?,
        });
        self.vm.call_raw("object-add", filter).map(drop)
    }

    /// Has QEMU take `frames` for such as pass that queue of the NIC's netdev: `rx` is what the netdev gets, `tx`
    /// what it sends. QEMU forgets what it has not read when the socket is closed.
    fn redirect(&self, queue: &str, frames: &[Forged]) -> anyhow::Result<UnixStream> {
        let nic = self.nic();
        let address = json!({ "type": "unix", "data": { "path": NAME, "abstract": true } });
        let socket = json!({ "addr": address, "server": true, "wait": false });
        let backend = json!({ "type": "socket", "data": socket });
        self.vm
            .call_raw("chardev-add", json!({ "id": NAME, "backend": backend }))?;
        let filter = json!({
            "qom-type": "filter-redirector",
            "id": format!("{NAME}-filter"),
            "netdev": nic.netdev_id(),
            "queue": queue,
            "indev": NAME,
        });
        self.vm.call_raw("object-add", filter)?;
        let address = SocketAddr::from_abstract_name(NAME)?;
        let mut socket = UnixStream::connect_addr(&address).context("QEMU's filter")?;
        let room = header(nic);
        for frame in frames {
            let mut message = frame.left.to_vec();
            message.resize(room, 0);
            message.extend(&frame.bytes);
            let length = (message.len() as u32).to_be_bytes();
            socket.write_all(&[&length[..], &message].concat())?;
        }
        Ok(socket)
    }
}
