//! The network namespace that belongs to one thread.

use super::ip;
use crate::base::error::OrCannotRun as _;
use anyhow::{Context as _, Result, bail, ensure};
use nix::ifaddrs::getifaddrs;
use nix::net::if_::InterfaceFlags;
use nix::sched::{CloneFlags, unshare};
use std::cell::Cell;
use std::marker::PhantomData;

thread_local! {
    static ENTERED: Cell<bool> = const { Cell::new(false) };
}

/// The calling thread's own network. It has no name: the kernel removes it, with everything in it,
/// when the thread and the processes it started are gone, whatever ended them.
pub struct Namespace {
    /// It is the thread's: it cannot be handed to another.
    _thread: PhantomData<*const ()>,
}

impl Namespace {
    /// Moves the calling thread into a new, empty network with loopback up and IPv6 off (guests
    /// and captures then see no frames but those of the trial). Children and threads started from
    /// now on inherit it. A thread can do this once.
    pub fn enter() -> Result<Namespace> {
        ensure!(
            !ENTERED.get(),
            "this thread is in a network namespace of its own already: one trial, one thread"
        );
        unshare(CloneFlags::CLONE_NEWNET).or_cannot_run(|| {
            "make a network namespace (as an ordinary user it takes a user namespace first)".into()
        })?;
        ENTERED.set(true);
        disable_ipv6().or_cannot_run(|| "turn IPv6 off in the trial's network".into())?;
        ip::run("link set lo up").or_cannot_run(|| "bring loopback up".into())?;
        check_isolated().or_cannot_run(|| "isolate the trial's network".into())?;
        Ok(Namespace {
            _thread: PhantomData,
        })
    }
}

/// `/proc/sys/net` is that of the thread which opens the file.
fn disable_ipv6() -> Result<()> {
    for which in ["all", "default"] {
        let file = format!("/proc/sys/net/ipv6/conf/{which}/disable_ipv6");
        match std::fs::write(&file, "1") {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => return Ok(()), // a kernel without IPv6
            other => other.with_context(|| format!("cannot write {file}"))?,
        }
    }
    Ok(())
}

/// No route, and no interface that is up but loopback. (Kernels with tunnel modules put their
/// fallback devices, down, into every new namespace.)
pub fn check_isolated() -> Result<()> {
    for interface in getifaddrs().context("cannot list the interfaces")? {
        if interface.flags.contains(InterfaceFlags::IFF_UP)
            && !interface.flags.contains(InterfaceFlags::IFF_LOOPBACK)
        {
            bail!(
                "interface {} is up in a network that should be empty",
                interface.interface_name
            );
        }
    }
    // By thread: /proc/net and /proc/self/net are those of the process's first thread.
    let file = "/proc/thread-self/net/route";
    let routes = std::fs::read_to_string(file).with_context(|| format!("cannot read {file}"))?;
    if let Some(route) = routes.lines().nth(1) {
        bail!(
            "there is a route in a network that should be empty: {}",
            route.trim()
        );
    }
    Ok(())
}
