//! Who carries the frames of the NIC under test: QEMU itself, or vhost-net.

use super::Testbed;
use crate::host::vhost;
use crate::matrix::Backend;
use anyhow::ensure;
use nix::time::{clock_getcpuclockid, clock_gettime};
use nix::unistd::Pid;
use std::io::Write as _;
use std::time::Duration;

/// Words of the failure when vhost was asked for and is not used.
pub const NOT_SERVED: &str = "no vhost worker serves it";

/// In a trial's artifacts: what was seen of its backend.
const EVIDENCE: &str = "backend.log";

impl Testbed {
    /// How often the vhost workers of this QEMU have run; not looked for where there are to be none.
    pub(super) fn vhost_turns(&self) -> u64 {
        match self.cell.backend {
            Backend::Tap => 0,
            Backend::Vhost | Backend::VhostZcopy => vhost::turns(&vhost::workers(self.vm.pid())),
        }
    }

    /// Processor time so far of the guest's QEMU and of the vhost workers that serve it; none where the
    /// kernel does not tell.
    pub fn cost(&self) -> Option<Duration> {
        let pid = self.vm.pid();
        let clock = clock_getcpuclockid(Pid::from_raw(pid.try_into().ok()?)).ok()?;
        let own = Duration::from(clock_gettime(clock).ok()?);
        Some(own + vhost::ran(&vhost::kernel_workers(pid)))
    }

    /// After an answered ping: that its frames went through what the cell names. `before` is
    /// [`Testbed::vhost_turns`] from before the ping.
    ///
    /// # Errors
    /// When vhost was asked for but is not used, or is used but was not asked for.
    pub(super) fn expect_backend(&self, before: u64) -> anyhow::Result<()> {
        let backend = self.cell.backend;
        let workers = vhost::workers(self.vm.pid());
        let turns = vhost::turns(&workers).saturating_sub(before);
        let pid = self.vm.pid();
        self.evidence(&format!(
            "{backend}: vhost workers of QEMU {pid}: {workers:?}; they ran {turns} times while a ping was answered"
        ));
        if backend == Backend::Tap {
            ensure!(
                workers.is_empty(),
                "QEMU was to carry its frames itself, but vhost workers serve it: {workers:?}"
            );
            return Ok(());
        }
        ensure!(
            !workers.is_empty(),
            "QEMU was to leave its frames to vhost, but {NOT_SERVED}: there is no thread vhost-{pid}"
        );
        ensure!(
            turns > 0,
            "a ping was answered, but the vhost workers {workers:?} did not run meanwhile"
        );
        Ok(())
    }

    /// Keeps a line of what was seen of the backend.
    pub fn evidence(&self, line: &str) {
        let file = std::fs::OpenOptions::new()
            .create(true)
            .append(true)
            .open(self.artifacts.dir().join(EVIDENCE));
        // A disk that is full decides nothing about the NIC.
        let _ = file.and_then(|mut file| writeln!(file, "{line}"));
    }
}
