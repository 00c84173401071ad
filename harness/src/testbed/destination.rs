//! Live migration: a second QEMU, with a tap of its own on the same bridge, that the guest moves to.

use super::Testbed;
use crate::base::deadline::{self, Until};
use crate::base::error::OrCannotRun;
use crate::base::words::quote;
use crate::guest::agent::Agent;
use crate::net::addr::{self, Mac};
use crate::net::capture::{Capture, Mark, Room};
use crate::net::frame::Frame;
use crate::vm::accel::Accel;
use crate::vm::cmdline::{Ram, VmSpec};
use crate::vm::process::Vm;
use crate::vm::qemu::{Qemu, transcript};
use crate::vm::wire::EventMark;
use anyhow::{Context as _, anyhow};
use serde_json::{Value, json};
use std::net::Ipv4Addr;
use std::time::Duration;

/// The first destination's tap; the source's and this one take turns.
pub const TAP: &str = "tap1";
/// The source's SPICE server, and the first destination's; they take turns too.
pub const SPICE: [u16; 2] = [5930, 5931];
/// Where destinations await a guest, on the host's address in the trial's own network.
const PORT: u16 = 4444;

/// How often QEMU announces a NIC that has moved, within 1.2 s (`announce-rounds`).
pub const ANNOUNCE_ROUNDS: u64 = 5;

/// In the guest: there for as long as its two processes switch.
const SWITCHING: &str = "/tmp/nicmatrix.switching";

/// How long they switch at most, seconds: a migration's own deadline ends sooner.
const SWITCHING_SECONDS: u32 = 300;

/// A shell command that has two processes of the guest hand a line to and fro.
///
/// Before version 9.0, QEMU clears the dirty bits of a guest's memory for a migration and leaves TCG's TLB
/// as it was (`cpu_physical_memory_sync_dirty_bitmap`). What the guest then writes through an entry of that
/// TLB is not sent, and it runs on with older memory than its devices: a driver waits at a descriptor
/// that the NIC has passed (3 in 100 migrations of a guest that only answered pings). A switch
/// between processes flushes the TLB.
fn switch_often() -> String {
    let switch = format!(
        "(echo; while read line && [ -e {SWITCHING} ]; do echo; done) <{SWITCHING} | cat >{SWITCHING}"
    );
    format!(
        "rm -f {SWITCHING}; mkfifo {SWITCHING} && \
         timeout {SWITCHING_SECONDS} sh -c {} >/dev/null 2>&1 </dev/null &",
        quote(&switch)
    )
}

/// A QEMU that waits for the guest.
pub struct Destination {
    vm: Vm,
    agent: Agent,
    wire: Capture,
}

/// The VM that takes over from `source`: the same but for what is the host's.
fn spec(source: &VmSpec) -> VmSpec {
    let mut spec = source.clone();
    spec.restored = true;
    for nic in &mut spec.nics {
        nic.tap = other(nic.tap.as_str(), ["tap0", TAP]).to_owned();
    }
    spec.spice = spice_port(source);
    spec
}

fn other<T: PartialEq>(this: T, [a, b]: [T; 2]) -> T {
    if this == a { b } else { a }
}

impl Testbed {
    /// The trial's own QEMU, in which its guest begins.
    pub fn own_qemu(&self) -> &Qemu {
        &self.stock.qemu
    }

    /// Starts the `round`-th destination, a VM of `qemu` that is ready for the guest; its transcripts go
    /// to `destinationN` in the trial's artifacts.
    ///
    /// # Errors
    /// When QEMU does not start, or does not wait for a guest.
    pub fn destination(&self, qemu: &Qemu, round: u32) -> anyhow::Result<Destination> {
        let directory = self.artifacts.dir().join(format!("destination{round}"));
        std::fs::create_dir_all(&directory)
            .or_cannot_run(|| format!("create {}", directory.display()))?;
        let echo = self.stock.echo;
        let mut spec = spec(&self.vm.spec);
        if let Some(alter) = self.alter_destination {
            alter(&mut spec);
        }
        let mut vm = Vm::start(qemu, spec, &directory, echo)?;
        let tap = &vm.spec.nics[0].tap;
        self.bridge.attach_tap(tap)?;
        let wire = Capture::of_guest(tap, &self.witness, Room::Flood)?;
        let create = |name: &str| transcript(&directory, name);
        let stream = vm.take_agent().context("the agent's socket was taken")?;
        let agent = Agent::expected(stream, create("agent.log")?, create("commands.log")?, echo)?;
        vm.call_raw("migrate-incoming", json!({ "uri": uri() }))?;
        // The guest then runs as soon as it is there.
        vm.call(&qapi::qmp::cont {})?;
        Ok(Destination { vm, agent, wire })
    }

    /// Readies the source: its events tell how the migration goes, and all memory goes along.
    ///
    /// # Errors
    /// QEMU's refusal; the guest's, to switch between processes.
    pub fn ready_to_leave(&self) -> anyhow::Result<()> {
        if self.stock.accel == Accel::Tcg {
            self.agent.sh(&switch_often())?;
        }
        let mut capabilities = vec![json!({ "capability": "events", "state": true })];
        // The source was restored with this on; its destination needs the memory in the stream.
        if let Ram::Private(_) = self.vm.spec.ram {
            capabilities.push(json!({ "capability": "x-ignore-shared", "state": false }));
        }
        let capabilities = json!({ "capabilities": capabilities });
        self.vm
            .call_raw("migrate-set-capabilities", capabilities)
            .map(drop)
    }

    /// Ends in the guest what [`Testbed::ready_to_leave`] began there.
    ///
    /// # Errors
    /// The guest's refusal.
    pub fn settle(&self) -> anyhow::Result<()> {
        self.agent.sh(&format!("rm -f {SWITCHING}")).map(drop)
    }

    /// Whether the source tells its SPICE clients where the guest has gone.
    ///
    /// # Errors
    /// When QEMU does not say.
    pub fn spice_clients_told(&self, since: EventMark) -> anyhow::Result<bool> {
        let told = self
            .vm
            .qmp
            .event(since, deadline::SPICE_TOLD.start(), |event| {
                (event.name == "SPICE_MIGRATE_COMPLETED").then_some(())
            });
        let says = self.vm.call_raw("query-spice", json!({}))?;
        Ok(told.is_ok() && says["migrated"] == json!(true))
    }

    /// Types `command`, which begins a migration, and waits until `destination` runs the guest; what
    /// the source's `query-migrate` says then. `begun` is called once it is under way.
    ///
    /// # Errors
    /// A complaint of the monitor; a migration that does not complete, with QEMU's reason.
    pub fn migrate(
        &mut self,
        command: &str,
        destination: &Destination,
        begun: impl FnOnce(&mut Testbed) -> anyhow::Result<()>,
    ) -> anyhow::Result<Value> {
        let (left, arrived) = (self.vm.qmp.mark(), destination.vm.qmp.mark());
        self.vm.type_in(command)?;
        begun(self)?;
        let of_destination = |error: anyhow::Error| match destination.vm.death() {
            Some(death) => error.context(format!("the destination: {death}")),
            None => error,
        };
        let ended = self
            .vm
            .qmp
            .event(left, deadline::MIGRATED.start(), |event| {
                let status = event.data["status"].as_str()?;
                ["completed", "failed", "cancelled"]
                    .contains(&status)
                    .then(|| status.to_owned())
            })
            .map_err(|error| of_destination(self.vm.explain(error)))?;
        if ended != "completed" {
            let facts = self.vm.call_raw("query-migrate", json!({}))?;
            let error = anyhow!("the migration ended as {ended:?}; query-migrate: {facts}");
            // It ends, or has ended, as its stream was cut off; only its own words say why.
            let death = destination.vm.await_death();
            return Err(match death {
                Some(death) => error.context(format!("the destination: {death}")),
                None => error,
            });
        }
        destination
            .vm
            .qmp
            .event(arrived, deadline::ARRIVED.start(), |event| {
                (event.name == "RESUME").then_some(())
            })
            .map_err(&of_destination)
            .context("the destination does not run the guest")?;
        self.migration_facts()
    }

    /// The source's `query-migrate`, whose figures follow the event of its end.
    fn migration_facts(&self) -> anyhow::Result<Value> {
        let deadline = deadline::QMP_REPLY.start();
        loop {
            let facts = self.vm.call_raw("query-migrate", json!({}))?;
            if facts["total-time"].as_u64().is_some_and(|ms| ms > 0) {
                return Ok(facts);
            }
            if deadline.left().is_none() {
                return Err(deadline.missed(format!("query-migrate gives no total-time: {facts}")));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Has the guest go on at the source, after a destination has refused it, and shows that it answers.
    ///
    /// # Errors
    /// When QEMU does not run the guest any more, or the guest does not answer.
    pub fn stay(&self) -> anyhow::Result<()> {
        // Without a word from the destination the source takes the guest for gone, and keeps it stopped.
        if !self.vm.call(&qapi::qmp::query_status {})?.running {
            self.vm.call(&qapi::qmp::cont {})?;
        }
        self.await_guest()?;
        self.reach(deadline::FIRST_PING)
    }

    /// Ends the source: the guest is at `destination` from now on.
    ///
    /// # Errors
    /// A panic, oops, call trace or stall on the source's console.
    pub fn arrive(&mut self, destination: Destination) -> anyhow::Result<()> {
        self.expect_quiet_kernel()?;
        let Destination { vm, agent, wire } = destination;
        (self.vm, self.agent, self.capture) = (vm, agent, Some(wire));
        Ok(())
    }

    /// The present moment of the capture on the bridge.
    pub fn bridge_mark(&self) -> anyhow::Result<Mark> {
        self.host()?.mark()
    }

    /// What has reached the host through the bridge since `mark`, late frames of an earlier step as well.
    ///
    /// # Errors
    /// When the capture lost some.
    pub fn on_bridge(&self, mark: Mark) -> anyhow::Result<Vec<Frame>> {
        self.host()?.frames_with_late(mark)
    }

    /// Waits until `limit` for a frame, since `mark`, that reaches the host through the bridge.
    ///
    /// # Errors
    /// When there was none, with what there was.
    pub fn await_on_bridge(
        &self,
        mark: Mark,
        limit: impl Into<Until>,
        wanted: impl FnMut(&Frame) -> bool,
    ) -> anyhow::Result<Frame> {
        self.host()?.wait(mark, limit, wanted)
    }

    /// Waits until QEMU (by RARP) or the guest (by gratuitous ARP) announces to the network that `mac` has
    /// moved. Where that is not the first MAC of the NIC under test, QEMU may announce the first instead.
    ///
    /// # Errors
    /// After [`deadline::ANNOUNCED`], with what the tap showed.
    pub fn await_announcement(&self, mark: Mark, mac: Mac) -> anyhow::Result<Announcement> {
        let first = self.nic().mac;
        let limit = deadline::ANNOUNCED.start();
        let mut of_first = 0;
        let announces = |frame: &Frame| {
            of_first += u64::from(frame.announcement_of(first).is_some());
            frame.announcement_of(mac).is_some() || of_first == ANNOUNCE_ROUNDS
        };
        match self.host()?.wait(mark, limit, announces) {
            Ok(frame) => Ok(match frame.announcement_of(mac) {
                Some(by) => Announcement { mac, by },
                None => Announcement {
                    mac: first,
                    by: frame.announcement_of(first).unwrap_or_default(),
                },
            }),
            Err(error) => {
                let wire = self.wire()?;
                let all = wire.summary(Mark::first())?;
                Err(error.context(format!(
                    "no announcement of {mac} reached the bridge; the destination's tap showed: {all}"
                )))
            }
        }
    }

    /// Waits until QEMU has announced a NIC to the network `rounds` times since `mark`, by one of `macs`: a switch may miss
    /// the first ones, while its own port to the guest comes up.
    ///
    /// # Errors
    /// After [`deadline::ANNOUNCED`], with how many there were.
    pub fn await_rounds(&self, mark: Mark, macs: [Mac; 2], rounds: u64) -> anyhow::Result<()> {
        let mut seen = 0;
        let counts = |frame: &Frame| {
            let by = |mac: &Mac| frame.announcement_of(*mac) == Some("RARP");
            seen += u64::from(macs.iter().any(by));
            seen == rounds
        };
        let last = self.await_on_bridge(mark, deadline::ANNOUNCED.start(), counts);
        last.with_context(|| format!("QEMU announced {} {seen} times, not {rounds}", macs[0]))?;
        Ok(())
    }

    /// Waits for the guest's own announcement of an address of its, in a VLAN or in none, since `mark`: virtio asks
    /// its driver for one (VIRTIO_NET_F_GUEST_ANNOUNCE), whatever QEMU has told the network by itself, and Linux
    /// announces what stands on the NIC as well (`vlan_device_event`).
    ///
    /// # Errors
    /// After [`deadline::ANNOUNCED`].
    pub fn await_guest_announcement(
        &self,
        mark: Mark,
        mac: Mac,
        address: Ipv4Addr,
        vlan: Option<u16>,
    ) -> anyhow::Result<()> {
        let of_guest = |frame: &Frame| {
            let arp = frame.arp();
            let arp = arp.filter(|_| frame.src() == Some(mac) && frame.vlan_id() == vlan);
            arp.is_some_and(|arp| arp.sender == (mac, address) && arp.target.1 == address)
        };
        (self
            .host()?
            .wait(mark, deadline::ANNOUNCED.start(), of_guest))
        .with_context(|| {
            let in_vlan = vlan.map_or_else(String::new, |id| format!(" in VLAN {id}"));
            format!(
                "the guest itself did not announce {address} at {mac}{in_vlan} by gratuitous ARP"
            )
        })?;
        Ok(())
    }
}

/// What told the network that a NIC has moved.
#[derive(Debug, Clone, Copy)]
pub struct Announcement {
    /// The MAC that was announced.
    pub mac: Mac,
    /// "RARP" (QEMU's) or "gratuitous ARP" (the guest's).
    pub by: &'static str,
}

/// The port of the next destination's SPICE server, where `source` has one.
pub fn spice_port(source: &VmSpec) -> Option<u16> {
    source.spice.map(|port| other(port, SPICE))
}

/// As `migrate` and `migrate-incoming` take it.
pub fn uri() -> String {
    format!("tcp:{}:{PORT}", addr::HOST)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::vm::cmdline::tests::{nic, spec as with_nics};

    #[test]
    fn source_and_destination_differ_in_what_is_the_hosts() {
        let mut source = with_nics(vec![nic("e1000")]);
        source.spice = Some(SPICE[0]);
        let there = spec(&source);
        assert_eq!(there.nics[0].tap, TAP);
        assert!(there.restored);
        let back = spec(&there);
        assert_eq!((&back.nics, back.spice), (&source.nics, source.spice));
        let lines = |spec: &VmSpec| {
            let all = spec.arguments().into_iter();
            all.map(|a| {
                a.to_string_lossy()
                    .replace("tap1", "tap0")
                    .replace("5931", "5930")
            })
            .filter(|a| a != "-incoming" && a != "defer")
            .collect::<Vec<_>>()
        };
        assert_eq!(lines(&source), lines(&there));
    }
}
