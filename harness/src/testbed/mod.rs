//! What one trial is handed: its own host network, its VM and guest, a capture of the NIC's tap.

pub mod backend;
pub mod checkpoints;
pub mod destination;
pub mod exchange;
mod forensics;
mod forge;
mod line;
pub mod netboot;
pub mod order;
mod pci;
pub mod peer;
mod reach;
pub mod reception;
mod rx_filter;
pub mod source;
pub mod start;
pub mod stock;

use crate::base::artifacts::Artifacts;
use crate::base::deadline;
use crate::base::delay;
use crate::base::error::{OrCannotRun, Skip};
use crate::guest::agent::Agent;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::host::qemus::OtherQemu;
use crate::matrix::Cell;
use crate::matrix::schema::Profile;
use crate::net::addr::{self, Mac};
use crate::net::audit::Witness;
use crate::net::bridge::{self, Bridge};
use crate::net::capture::{Capture, Room};
use crate::net::dhcp::Dhcp;
use crate::net::namespace::Namespace;
use crate::vm::cmdline::{Boot, NicSpec, VmSpec};
use crate::vm::kernel_words;
use crate::vm::process::{Handle, Vm};
use crate::vm::standard::{self, Kit};
use crate::vm::start_state::StartState;
use anyhow::{Context as _, bail, ensure};
use netboot::Served;
use order::{Moment, Order, Strike};
use peer::Peer;
use report::events::Figure;
use source::Source;
use start::Launch;
use std::net::Ipv4Addr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;
use stock::Stock;

/// A trial's own network, VM and guest. Everything ends when it is dropped, or when its thread
/// ends in any other way.
pub struct Testbed {
    stock: Arc<Stock>,
    kit: Kit,
    /// Another QEMU, where the guest is to move to one.
    pub other: Option<Arc<OtherQemu>>,
    /// What a fault changes of the VMs that the guest is to move to.
    pub alter_destination: Option<fn(&mut VmSpec)>,
    /// The cell under test.
    pub cell: Arc<Cell>,
    /// How often and how long.
    pub profile: Profile,
    /// Commands in the guest.
    pub agent: Agent,
    /// QEMU.
    pub vm: Vm,
    /// The host's end of the network.
    pub bridge: Bridge,
    /// Judges all that the guests send.
    pub witness: Witness,
    /// The DHCP server on the bridge.
    pub dhcp: Option<Dhcp>,
    /// What was measured.
    pub figures: Vec<Figure>,
    /// What the VM boots over TFTP, where it does.
    served: Option<Served>,
    /// Things worth knowing that decide nothing.
    pub notes: Vec<String>,
    /// Whatever a fault must keep alive.
    pub kept: Vec<Box<dyn std::any::Any>>,
    /// What the guest was in fact started from.
    pub start_state: StartState,
    /// Whether the NIC under test still has the address that it was saved with.
    pub addressed: bool,
    /// From exec to the agent's first answer.
    pub boot: Duration,
    /// From exec to the first ping answered, of a guest restored with its NIC up.
    pub first_ping: Option<Duration>,
    /// Where this trial's artifacts go.
    pub artifacts: Artifacts,
    capture: Option<Capture>,
    /// What reaches the host, behind the tap.
    host: Option<Capture>,
    /// Keeps the checkpoint for as long as it is held: a destination's memory begins as its file too.
    _source: Source,
    _namespace: Namespace,
    strike: Option<Strike>,
    struck: bool,
}

impl Testbed {
    /// Builds network, VM and guest on the calling thread, which must be the trial's own.
    /// `started` is handed QEMU's handle as soon as there is one.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`] for trouble of the host; a plain error when QEMU or the guest
    /// does not come up.
    pub fn build(
        order: Order,
        stock: &Arc<Stock>,
        artifacts: Artifacts,
        started: impl FnOnce(Handle),
    ) -> anyhow::Result<Testbed> {
        let Order {
            cell,
            spec,
            plain,
            start_state,
            profile,
            strike,
            kit,
            other,
        } = order;
        let (source, notes) = stock
            .checkpoints
            .source(start_state, &spec, &plain, &cell.guest)?;
        let namespace = Namespace::enter()?;
        // What the NIC tells its guest of the host's MTU is true.
        let bridge = Bridge::create(cell.nic.default_mtu())?;
        let host = Capture::start(bridge::NAME, Room::FloodOfHeaders)?;
        let witness = Witness::default();
        witness.allow_mtu(bridge.mtu());
        if spec.cpus > 1 || spec.nics.iter().any(|nic| nic.queues > 1) {
            witness.allow_any_order();
        }
        for nic in &spec.nics {
            witness.allow_mac(nic.mac);
        }
        let hosts: Vec<_> = spec
            .nics
            .iter()
            .map(|nic| (nic.mac, addr::guest(nic.place)))
            .collect();
        let served = match spec.boot {
            Boot::Network(_) => {
                let root = artifacts.dir().join("tftp");
                let (kernel, initrd, built) = stock.bootable(&cell.guest)?;
                let parameters: Vec<&str> = [built]
                    .into_iter()
                    .chain(standard::parameter_of(&cell))
                    .collect();
                let files = (kernel, initrd, &*parameters.join(" "));
                let program = stock.facts.ipxe.as_deref();
                Some(Served::new(root, &bridge, files, program)?)
            }
            _ => None,
        };
        let net_boot = served.as_ref().map(|served| served.net_boot(true));
        let dhcp = Dhcp::start_with(&hosts, net_boot.as_ref())?;
        let launch = Launch {
            qemu: &stock.qemu,
            directory: artifacts.dir(),
            show: stock.echo,
        };
        let mut capture = None;
        let guest = start::guest(&launch, spec, &source, &bridge, started, |nics| {
            if let Some(nic) = nics.first() {
                capture = Some(Capture::of_guest(&nic.tap, &witness, Room::Flood)?);
            }
            Ok(())
        })?;
        let start_state = source.start_state();
        Ok(Testbed {
            stock: stock.clone(),
            kit,
            other,
            alter_destination: None,
            cell,
            profile,
            agent: guest.agent,
            vm: guest.vm,
            bridge,
            witness,
            dhcp: Some(dhcp),
            figures: Vec::new(),
            served,
            notes,
            kept: Vec::new(),
            start_state,
            addressed: start_state == StartState::WarmNic,
            boot: guest.after,
            first_ping: guest.first_ping,
            artifacts,
            capture,
            host: Some(host),
            _source: source,
            _namespace: namespace,
            strike,
            struck: false,
        })
    }

    /// Injects the fault that strikes at this moment, if any; the runner and cases call it.
    ///
    /// # Errors
    /// When the breakage itself cannot be made.
    pub fn moment(&mut self, moment: Moment) -> anyhow::Result<()> {
        match self.strike {
            Some(strike) if strike.moment == moment && !self.struck => {
                self.struck = true;
                // The case is to go red, and a busy host makes it no less so.
                delay::meter().disregard();
                (strike.inject)(self).or_cannot_run(|| format!("inject the fault {}", strike.name))
            }
            _ => Ok(()),
        }
    }

    /// Whether the fault has struck.
    pub fn struck(&self) -> bool {
        self.struck
    }

    /// The NIC under test.
    pub fn nic(&self) -> &NicSpec {
        &self.vm.spec.nics[0]
    }

    /// The address that the NIC under test gets.
    pub fn address(&self) -> Ipv4Addr {
        addr::guest(0)
    }

    /// Starts the DHCP server anew, with or without TFTP beside it.
    ///
    /// # Errors
    /// When it does not start; for a VM that does not boot from its NIC.
    pub fn serve_boot(&mut self, tftp: bool) -> anyhow::Result<()> {
        let served = self.served.as_ref().context("nothing is served")?;
        let host = (self.nic().mac, self.address());
        let net_boot = served.net_boot(tftp);
        // The first one holds the ports.
        self.dhcp = None;
        self.dhcp = Some(Dhcp::start_with(&[host], Some(&net_boot))?);
        Ok(())
    }

    /// A file that the VM boots over TFTP.
    ///
    /// # Errors
    /// For a VM that does not boot from its NIC.
    pub fn boot_file(&self, name: &str) -> anyhow::Result<PathBuf> {
        let served = self.served.as_ref().context("nothing is served")?;
        Ok(served.file(name))
    }

    /// Another guest of the same cell on the same bridge, with its NIC in that place (1 and on), up
    /// and addressed.
    pub fn peer(&self, place: u8) -> anyhow::Result<Peer> {
        let spec = standard::bare(&self.cell, &self.kit, place);
        self.witness.allow_mac(spec.nics[0].mac);
        Peer::plug(self, spec)
    }

    /// The capture on the tap of the NIC under test.
    ///
    /// # Errors
    /// While that NIC is not plugged.
    pub fn wire(&self) -> anyhow::Result<&Capture> {
        self.capture
            .as_ref()
            .context("the NIC under test has no tap yet")
    }

    fn host(&self) -> anyhow::Result<&Capture> {
        self.host.as_ref().context("the captures were stopped")
    }

    /// Ends the captures, which take processor time from what is measured.
    pub fn stop_captures(&mut self) {
        (self.capture, self.host) = (None, None);
    }

    /// The directory of the host's netperf and netserver.
    ///
    /// # Errors
    /// [`Skip`], where there is no netperf here or in the guest.
    pub fn netperf(&self) -> anyhow::Result<PathBuf> {
        let programs = self.stock.image.host_programs.clone();
        let programs = programs.ok_or_else(|| {
            Skip("netperf could not be fetched when the guest image was built: it is in Debian's non-free section".into())
        })?;
        let in_guest = self
            .agent
            .run("command -v netperf && command -v netserver")?;
        if in_guest.code != 0 {
            return Err(Skip("the guest has no netperf".into()).into());
        }
        Ok(programs)
    }

    /// Attaches the tap that QEMU made for a NIC just plugged, and captures there.
    ///
    /// # Errors
    /// When QEMU made no tap.
    pub fn attach(&mut self) -> anyhow::Result<()> {
        let tap = self.nic().tap.clone();
        ensure!(
            bridge::exists(&tap),
            "QEMU accepted the netdev but made no tap {tap}"
        );
        self.bridge.attach_tap(&tap)?;
        self.capture = Some(Capture::of_guest(&tap, &self.witness, Room::Flood)?);
        Ok(())
    }

    /// The NIC under test as the guest shows it.
    ///
    /// # Errors
    /// When the guest does not show it in time.
    pub fn link(&self) -> anyhow::Result<Link> {
        link::await_link(&self.agent, self.nic().mac)
    }

    /// The dialect's command for an operation on `link`. What the guest may send once it has obeyed is no
    /// damage from now on.
    pub fn command(&self, op: Op, link: &Link, value: &str) -> String {
        match op {
            Op::Mac => value.parse().map_or((), |mac| self.witness.allow_mac(mac)),
            Op::Mtu => value.parse().map_or((), |mtu| self.witness.allow_mtu(mtu)),
            Op::VlanAdd => value.parse().map_or((), |id| self.witness.allow_vlan(id)),
            _ => {}
        }
        self.cell.guest.dialect.command(op, &link.name, value)
    }

    /// Runs the dialect's command for an operation.
    ///
    /// # Errors
    /// When the guest refuses it.
    pub fn apply(&self, op: Op, link: &Link, value: &str) -> anyhow::Result<()> {
        self.agent.sh(&self.command(op, link, value)).map(drop)
    }

    /// Gives the NIC under test its address, brings it up and waits until the host reaches it: the
    /// state in which most cases begin.
    ///
    /// # Errors
    /// When the guest does not show the NIC, or no ping is answered in time.
    pub fn up(&mut self) -> anyhow::Result<Link> {
        let link = self.link()?;
        if !self.addressed {
            let address = addr::guest_with_prefix(0);
            self.apply(Op::Address, &link, &address)?;
        }
        self.reach(deadline::FIRST_PING)?;
        Ok(link)
    }

    /// QEMU's own view of the NIC under test: model and current MAC (`qom-get`, `info network`).
    ///
    /// # Errors
    /// When QEMU does not know it.
    pub fn qemu_nic(&self) -> anyhow::Result<QemuNic> {
        self.qemu_nic_of(self.nic())
    }

    /// The same of any NIC of the guest.
    ///
    /// # Errors
    /// When QEMU does not know it.
    pub fn qemu_nic_of(&self, nic: &NicSpec) -> anyhow::Result<QemuNic> {
        let path = format!("/machine/peripheral/{}", nic.id);
        let model = self.vm.call(&qapi::qmp::qom_get {
            path,
            property: "type".into(),
        })?;
        let network = self.vm.hmp("info network")?;
        let line = network
            .lines()
            .find(|line| line.trim_start().starts_with(&format!("{}:", nic.id)))
            .with_context(|| format!("QEMU's `info network` has no {}: {network}", nic.id))?;
        let mac = line
            .split("macaddr=")
            .nth(1)
            .map(|rest| rest.chars().take(17).collect::<String>().parse())
            .with_context(|| format!("QEMU's `info network` shows no MAC in {line:?}"))??;
        Ok(QemuNic {
            model: model.as_str().unwrap_or_default().to_owned(),
            mac,
        })
    }

    /// Fails when the guest's console showed a panic, oops, call trace or stall.
    ///
    /// # Errors
    /// The first such line.
    pub fn expect_quiet_kernel(&self) -> anyhow::Result<()> {
        match self.vm.serial.trouble() {
            None => Ok(()),
            Some((kind, line)) => {
                let said = format!("the guest's console shows a {kind}: {line}");
                Err(match kernel_words::is_of_time(kind) {
                    true => kernel_words::Stalled(said).into(),
                    false => anyhow::Error::msg(said),
                })
            }
        }
    }

    /// Fails when a guest sent frames that were damaged as they left its NIC.
    ///
    /// # Errors
    /// What kind of damage it was.
    pub fn expect_sound_frames(&self) -> anyhow::Result<()> {
        if let Some(capture) = &self.capture {
            capture.judge()?;
        }
        match self.witness.findings().damage() {
            None => Ok(()),
            Some(damage) => bail!("on the wire, {damage}"),
        }
    }

    /// Waits for operstate to become `state`.
    ///
    /// # Errors
    /// After [`deadline::OPERSTATE`].
    pub fn expect_operstate(&self, link: &Link, state: &str) -> anyhow::Result<()> {
        let file = format!("/sys/class/net/{}/operstate", link.name);
        self.agent
            .until(
                &format!("grep -qx {state} {file}"),
                deadline::OPERSTATE,
                &format!("cat {file}"),
            )
            .with_context(|| format!("operstate of {} is not {state:?}", link.name))
    }

    /// `set_link` on the NIC under test.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn set_link(&self, up: bool) -> anyhow::Result<()> {
        self.set_link_of(self.nic().id.clone(), up)
    }

    /// As [`Testbed::set_link`], on its netdev, with which QEMU takes the NIC along.
    ///
    /// # Errors
    /// QEMU's refusal.
    pub fn set_netdev_link(&self, up: bool) -> anyhow::Result<()> {
        self.set_link_of(self.nic().netdev_id(), up)
    }

    fn set_link_of(&self, name: String, up: bool) -> anyhow::Result<()> {
        self.vm.call(&qapi::qmp::set_link { name, up }).map(drop)
    }

    /// The sysfs directory of the device behind `link`.
    pub fn device_directory(link: &Link) -> String {
        format!("/sys/class/net/{}/device", link.name)
    }
}

/// A NIC as QEMU sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct QemuNic {
    /// QOM type, for example `virtio-net-pci`.
    pub model: String,
    /// Current address.
    pub mac: Mac,
}

impl Drop for Testbed {
    fn drop(&mut self) {
        // The DHCP server and whatever a fault keeps live in the namespace; end them before the VM.
        self.kept.clear();
        self.dhcp = None;
    }
}
