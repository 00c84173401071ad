//! A host behind the bridge, with a network of its own: what the plan calls an external host.

use super::addr::PREFIX_LEN;
use super::bridge::{self, Bridge};
use super::ip;
use super::namespace::Namespace;
use crate::error::OrCannotRun as _;
use anyhow::{Result, anyhow};
use std::net::Ipv4Addr;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread::JoinHandle;

/// Its port on the bridge, and its own interface.
const PORT: &str = "outside0";
const INTERFACE: &str = "eth0";

type Job = Box<dyn FnOnce() + Send>;

/// A thread in a network namespace of its own, joined to the bridge by a veth pair, until it is
/// dropped.
pub struct Outside {
    jobs: Option<Sender<Job>>,
    thread: Option<JoinHandle<()>>,
}

impl Outside {
    /// Plugs it into `bridge`, with that address.
    pub fn plug(bridge: &Bridge, address: Ipv4Addr) -> Result<Outside> {
        let (jobs, inbox) = channel::<Job>();
        let (report, entered) = channel();
        let thread = std::thread::Builder::new()
            .name("outside".into())
            .spawn(move || live(&inbox, &report))
            .or_cannot_run(|| "start a thread for the external host".into())?;
        let outside = Outside {
            jobs: Some(jobs),
            thread: Some(thread),
        };
        let namespace = entered
            .recv()
            .unwrap_or_else(|_| Err(anyhow!("its thread ended")))
            .or_cannot_run(|| "make the external host's network".into())?;
        ip::run(&format!(
            "link add {PORT} type veth peer name {INTERFACE} netns {namespace}"
        ))
        .or_cannot_run(|| "join the external host to the bridge".into())?;
        bridge.attach_tap(PORT)?;
        outside.run(move || {
            ip::batch(&[
                format!("addr add {address}/{PREFIX_LEN} dev {INTERFACE}"),
                format!("link set {INTERFACE} up"),
            ])
            .or_cannot_run(|| "set up the external host's interface".into())?;
            bridge::await_link(INTERFACE)
        })?;
        bridge::await_link(PORT)?;
        Ok(outside)
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

fn live(inbox: &Receiver<Job>, report: &Sender<Result<String>>) {
    // By thread: /proc/self is the process's first.
    let entered = Namespace::enter().map(|namespace| {
        let path = format!(
            "/proc/{}/task/{}/ns/net",
            nix::unistd::getpid(),
            nix::unistd::gettid()
        );
        (namespace, path)
    });
    let _namespace = match entered {
        Ok((namespace, path)) => {
            let _ = report.send(Ok(path));
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
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
