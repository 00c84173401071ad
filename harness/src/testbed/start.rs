//! Brings a guest up: restored from a checkpoint where there can be one, else booted.

use super::source::Source;
use crate::base::deadline::{self, Deadline, Limit};
use crate::base::error::CannotRun;
use crate::guest::agent::Agent;
use crate::guest::network_manager;
use crate::net::addr;
use crate::net::bridge::Bridge;
use crate::net::capture::{Capture, Fence};
use crate::net::frame::Icmp;
use crate::net::ping::Ping;
use crate::vm::checkpoint::Mode;
use crate::vm::cmdline::{Boot, NicSpec, Ram, VmSpec};
use crate::vm::process::{EndedAtStart, Handle, Vm};
use crate::vm::qemu::{Qemu, transcript};
use crate::vm::start_state::StartState;
use anyhow::anyhow;
use std::collections::BTreeSet;
use std::net::{IpAddr, Ipv4Addr};
use std::path::Path;
use std::time::Duration;

/// Between two pings while the first reply is awaited, seconds: well below a trial's fixed cost.
const FIRST_PING_INTERVAL: f64 = 0.02;

/// A guest that answers.
pub struct StartedGuest {
    /// QEMU.
    pub vm: Vm,
    /// Commands in the guest.
    pub agent: Agent,
    /// From QEMU's start to the agent's first answer.
    pub after: Duration,
    /// From QEMU's start to the first answered ping, of a guest that is restored with its NICs up.
    pub first_ping: Option<Duration>,
}

/// How a QEMU is started: which, and where its transcripts go.
pub struct Launch<'a> {
    /// The QEMU under test.
    pub qemu: &'a Qemu,
    /// Gets `qemu.sh`, `qmp.log`, `serial.log`, `agent.log`, `commands.log`.
    pub directory: &'a Path,
    /// Shows console and commands on stderr too.
    pub show: bool,
}

/// Starts `spec` from `source` in the calling thread's network, its taps on `bridge`, and waits until
/// its agent answers; a VM that boots from its NIC stays paused. `started` is handed QEMU as soon as it
/// runs, `plugged` may look at the taps before the guest runs.
///
/// # Errors
/// [`crate::base::error::CannotRun`] for trouble of the host; a plain error when QEMU or the guest does not
/// come up.
pub fn guest(
    launch: &Launch,
    mut spec: VmSpec,
    source: &Source,
    bridge: &Bridge,
    started: impl FnOnce(Handle),
    plugged: impl FnOnce(&[NicSpec]) -> anyhow::Result<()>,
) -> anyhow::Result<StartedGuest> {
    if let Source::Restore(checkpoint, _) = source {
        spec.restored = true;
        if checkpoint.mode == Mode::Mapped {
            spec.ram = Ram::Private(checkpoint.ram());
        }
    }
    let mut vm = Vm::start(launch.qemu, spec, launch.directory, launch.show)?;
    started(vm.handle());
    let nics: Vec<NicSpec> = vm
        .spec
        .nics
        .iter()
        .filter(|n| !n.hotplug)
        .cloned()
        .collect();
    for nic in &nics {
        bridge.attach_tap(&nic.tap)?;
    }
    plugged(&nics)?;
    let ports = vm
        .take_agent()
        .ok_or_else(|| anyhow!("the agent's socket was taken before"))?;
    if let Source::Restore(checkpoint, _) = source {
        vm.restore(checkpoint)?;
    }
    let create = |name: &str| transcript(launch.directory, name);
    if let Boot::Network(_) = vm.spec.boot {
        let agent = Agent::expected(
            ports,
            create("agent.log")?,
            create("commands.log")?,
            launch.show,
        )?;
        return Ok(StartedGuest {
            after: vm.started.elapsed(),
            vm,
            agent,
            first_ping: None,
        });
    }
    vm.call(&qapi::qmp::cont {})?;
    let agent = Agent::connect(
        ports,
        create("agent.log")?,
        create("commands.log")?,
        launch.show,
    );
    let agent = agent.map_err(|error| did_not_come_up(&vm, source, error))?;
    let after = vm.started.elapsed();
    let first_ping = settle(&vm, &agent, source, &nics).map_err(|error| vm.explain(error))?;
    Ok(StartedGuest {
        vm,
        agent,
        after,
        first_ping,
    })
}

/// Has a guest that answers do what is left of its start; how long after QEMU's start it answered a ping, of one that
/// was restored with its NICs up.
fn settle(
    vm: &Vm,
    agent: &Agent,
    source: &Source,
    nics: &[NicSpec],
) -> anyhow::Result<Option<Duration>> {
    let mut first_ping = None;
    match source.start_state() {
        StartState::Boot => {
            if let Boot::Disk(_) = vm.spec.boot {
                agent.expect_allowed()?;
                network_manager::stand_aside(agent)?;
            }
        }
        StartState::WarmNic => {
            for nic in nics {
                first_reply(addr::guest(nic.place), deadline::FIRST_PING)
                    .map_err(|error| error.context("the restored guest is not reached"))?;
                first_ping.get_or_insert(vm.started.elapsed());
            }
            agent.set_clock()?;
        }
        StartState::ColdDriver => {
            agent.set_clock()?;
            // Each NIC on the command line is new to the guest; its driver is loaded as for any
            // that is plugged in.
            if !nics.is_empty() {
                agent.sh("echo 1 >/sys/bus/pci/rescan")?;
            }
        }
    }
    Ok(first_ping)
}

/// Pings `address` until the first reply.
///
/// # Errors
/// After `limit`.
pub fn first_reply(address: Ipv4Addr, limit: Limit) -> anyhow::Result<()> {
    let deadline = limit.start();
    match answers(address, deadline)? {
        true => Ok(()),
        false => Err(deadline.missed(format!("{address} did not answer"))),
    }
}

/// Pings `address` until the first reply; whether it came before the deadline.
///
/// # Errors
/// When ping itself does not work.
pub fn answers(address: impl Into<IpAddr>, deadline: Deadline) -> anyhow::Result<bool> {
    let running = Ping::new(address).interval(FIRST_PING_INTERVAL).spawn()?;
    let replied = running.wait_replies(1, deadline);
    Ok(replied.is_ok())
}

/// A moment of `wire` at which nothing is under way any more between the host and a guest that answers by `address`:
/// right behind the answer to one more request.
///
/// # Errors
/// After [`deadline::FIRST_PING`].
pub fn fence(wire: &Capture, address: Ipv4Addr) -> anyhow::Result<Fence> {
    let limit = deadline::FIRST_PING.start();
    // Any but the first is sent only where the one before it was lost.
    let patience = deadline::LATE_REPLY.start().span();
    loop {
        let mark = wire.mark()?;
        let asked = Ping::new(address).count(1).lasts(patience).run()?;
        if asked.received > 0 {
            let mut requests = BTreeSet::new();
            return wire.behind(mark, limit, |frame| match frame.icmp() {
                Some(Icmp::EchoRequest { id, seq }) => {
                    requests.insert((id, seq));
                    false
                }
                Some(Icmp::EchoReply { id, seq }) => requests.contains(&(id, seq)),
                _ => false,
            });
        }
        if limit.left().is_none() {
            return Err(limit.missed(format!("{address} did not answer")));
        }
    }
}

fn did_not_come_up(vm: &Vm, source: &Source, error: anyhow::Error) -> anyhow::Error {
    // This comes first: the whole of a dead QEMU's console is recorded only once its end was waited for.
    let death = vm.death_behind(&error);
    let trouble = match vm.serial.trouble() {
        Some((kind, line)) => format!(": its console shows a {kind}: {line}"),
        None => String::new(),
    };
    let how = match source {
        Source::Boot => "come up",
        Source::Restore(..) => "answer after it was restored (`--boot` boots it instead)",
    };
    let what = format!("the guest did not {how}{trouble}");
    match death {
        None => error.context(what),
        Some(death) => {
            let hosts = trouble.is_empty() && vm.is_hosts(&death);
            let what = format!("{what}; {death}");
            match (hosts, death.outside) {
                (false, _) => error.context(what),
                (true, Some(_)) => error.context(CannotRun(what)),
                (true, None) => error.context(EndedAtStart).context(CannotRun(what)),
            }
        }
    }
}
