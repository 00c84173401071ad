//! A host behind the bridge, with a network of its own: what the plan calls an external host.

use super::addr::{Mac, PREFIX_LEN};
use super::bridge::{self, Bridge};
use super::ip;
use super::namespace::Namespace;
use crate::base::error::OrCannotRun as _;
use crate::base::{delay, thread};
use anyhow::{Result, anyhow};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Its own interface.
pub(super) const INTERFACE: &str = "eth0";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, joined to the trial's by a veth pair, until it is
/// dropped.
pub struct Outside {
    port: String,
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Plugs it into `bridge`, with that MAC (else one of the kernel's choice) and address.
    pub fn plug(bridge: &Bridge, mac: Option<Mac>, address: Ipv4Addr) -> Result<Outside> {
        let outside = Outside::start(bridge.mtu(), mac)?;
        bridge.attach_tap(&outside.port)?;
        outside.run(move || {
            ip::batch(&[
                format!("addr add {address}/{PREFIX_LEN} dev {INTERFACE}"),
                format!("link set {INTERFACE} up"),
            ])
            .or_cannot_run(|| "set up the external host's interface".into())?;
            bridge::await_link(INTERFACE)
        })?;
        bridge::await_link(&outside.port)?;
        Ok(outside)
    }

    /// Starts it, with both ends of the pair down.
    pub(super) fn start(mtu: u32, mac: Option<Mac>) -> Result<Outside> {
        let (jobs, inbox) = channel::<Job>();
        let (report, entered) = channel();
        let meter = delay::meter();
        let thread = thread::start("outside", move || {
            delay::join(&meter);
            live(&inbox, &report);
        })?;
        let tid = entered
            .recv()
            .unwrap_or_else(|_| Err(anyhow!("its thread ended")))
            .or_cannot_run(|| "make the external host's network".into())?;
        let port = format!("outside{tid}");
        let mac = mac.map_or_else(String::new, |mac| format!("address {mac} "));
        ip::run(&format!(
            "link add {port} mtu {mtu} type veth peer name {INTERFACE} {mac}mtu {mtu} netns {tid}"
        ))
        .or_cannot_run(|| "join the external host to the trial's network".into())?;
        Ok(Outside {
            port,
            jobs: Some(jobs),
            thread: Some(thread),
        })
    }

    /// The trial's end of the pair: its port, where it is plugged into the bridge.
    pub fn port(&self) -> &str {
        &self.port
    }

    /// Does `work` there, and waits for it. Processes that it starts live in that network, and no
    /// longer than this.
    pub fn run<T: Send + 'static>(&self, work: impl FnOnce() -> T + Send + 'static) -> T {
        let (sender, receiver) = channel();
        let job: Job = Box::new(move || {
            let _ = sender.send(work());
        });
        let sent = self.jobs.as_ref().map(|jobs| jobs.send(job));
        match (sent, receiver.recv()) {
            (Some(Ok(())), Ok(result)) => result,
            // Its thread ends when this is dropped, or by a panic of `work`, which goes on here.
            _ => panic!("the external host's thread ended"),
        }
    }
}

fn live(inbox: &Receiver<Job>, report: &Sender<Result<i32>>) {
    let _namespace = match Namespace::enter() {
        Ok(namespace) => {
            let _ = report.send(Ok(nix::unistd::gettid().as_raw()));
            namespace
        }
        Err(error) => {
            let _ = report.send(Err(error));
            return;
        }
    };
    for job in inbox {
        job();
    }
}

impl Drop for Outside {
    fn drop(&mut self) {
        // At once; without it the pair goes with the thread's namespace, a little later.
        let _ = ip::run(&format!("link del {}", self.port));
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
