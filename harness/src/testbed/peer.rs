//! A second guest in a trial, for traffic between guests.

use super::Testbed;
use super::start::{self, Launch};
use crate::base::deadline;
use crate::base::error::OrCannotRun;
use crate::guest::agent::Agent;
use crate::guest::dialect::Op;
use crate::guest::link::{self, Link};
use crate::net::addr;
use crate::net::capture::{Capture, Room};
use crate::vm::cmdline::{NicSpec, VmSpec};
use crate::vm::process::Vm;
use crate::vm::start_state::StartState;
use anyhow::Context as _;
use std::net::Ipv4Addr;

/// A guest like the one under test, on the same bridge.
pub struct Peer {
    /// Commands in it.
    pub agent: Agent,
    /// Its QEMU.
    pub vm: Vm,
    /// Its NIC as it sees it.
    pub link: Link,
    /// What crosses its tap.
    pub wire: Capture,
}

impl Peer {
    /// Starts `spec`, a VM of the same cell, in the calling thread's network; its transcripts go to `peerN` in
    /// the trial's artifacts.
    ///
    /// # Errors
    /// As [`start::guest`]; a NIC that is not shown or not reached.
    pub(super) fn plug(bed: &Testbed, spec: VmSpec) -> anyhow::Result<Peer> {
        let (stock, cell) = (&bed.stock, &bed.cell);
        let place = spec.nics[0].place;
        let directory = bed.artifacts.dir().join(format!("peer{place}"));
        std::fs::create_dir_all(&directory)
            .or_cannot_run(|| format!("create {}", directory.display()))?;
        let (source, _) = (stock.checkpoints).source(stock.warmest, &spec, &spec, &cell.guest)?;
        let launch = Launch {
            qemu: &stock.qemu,
            directory: &directory,
            show: stock.echo,
        };
        let mut wire = None;
        let started = start::guest(
            &launch,
            spec,
            &source,
            &bed.bridge,
            |_| (),
            |nics| {
                wire = Some(Capture::of_guest(&nics[0].tap, &bed.witness, Room::Flood)?);
                Ok(())
            },
        )
        .with_context(|| format!("the peer in place {place}"))?;
        let ended = |error| started.vm.explain(error);
        let link = link::await_link(&started.agent, started.vm.spec.nics[0].mac).map_err(ended)?;
        if source.start_state() != StartState::WarmNic {
            let address = addr::guest_with_prefix(place);
            let command = cell
                .guest
                .dialect
                .command(Op::Address, &link.name, &address);
            started.agent.sh(&command).map_err(ended)?;
            start::first_reply(addr::guest(place), deadline::FIRST_PING).map_err(ended)?;
        }
        Ok(Peer {
            agent: started.agent,
            vm: started.vm,
            link,
            wire: wire.context("the peer has no tap")?,
        })
    }

    /// Its NIC.
    pub fn nic(&self) -> &NicSpec {
        &self.vm.spec.nics[0]
    }

    /// Its address.
    pub fn address(&self) -> Ipv4Addr {
        addr::guest(self.nic().place)
    }
}
