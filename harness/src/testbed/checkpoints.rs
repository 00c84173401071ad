//! Which checkpoint a guest starts from, and how one is made.

use super::exchange::{Exchange, Kept};
use super::source::{Saved, Source};
use super::start::{self, Launch};
use crate::base::deadline::{self, Limit};
use crate::base::error::{CannotRun, OrCannotRun, find};
use crate::guest::dialect::Op;
use crate::guest::link;
use crate::host::qemus::TestedQemu;
use crate::matrix::schema::Guest;
use crate::net::addr;
use crate::net::bridge::{self, Bridge};
use crate::net::namespace::Namespace;
use crate::vm::checkpoint::key::Origin;
use crate::vm::checkpoint::store::{RAM, STATE, Store};
use crate::vm::checkpoint::{Checkpoint, Mode};
use crate::vm::cmdline::{Boot, NicSpec, Ram, VmSpec, is_usb};
use crate::vm::process::EndedAtStart;
use crate::vm::qemu::Qemu;
use crate::vm::start_state::StartState;
use anyhow::{Context as _, anyhow};
use report::errln;
use serde::{Deserialize, Serialize};
use std::path::Path;
use std::sync::{Arc, OnceLock};

/// The built image's init has nothing left to do.
const BOOTED: Limit = Limit {
    what: "the guest's boot to end",
    seconds: 20.0,
};

/// What a guest is started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestReply {
    /// A checkpoint, and the state that was saved; none for a boot.
    pub checkpoint: Option<(Kept, Saved)>,
    /// Why it is no warmer one.
    pub notes: Vec<String>,
}

/// Answers what the guest with its first NIC in that place of the trial starts from, in place of a store, and the notes
/// of [`GuestReply`].
type Elsewhere = Box<dyn Fn(u8) -> anyhow::Result<(Source, Vec<String>)> + Send + Sync>;

/// The checkpoints of a run.
pub struct Checkpoints(Provider);

/// Who provides checkpoints.
enum Provider {
    Store(Maker),
    Elsewhere(Elsewhere),
}

/// Makes those that are missing from its store.
struct Maker {
    store: Store,
    qemu: Qemu,
    version: String,
    origin: Arc<OnceLock<Origin>>,
    exchange: Option<Box<dyn Exchange>>,
}

impl Checkpoints {
    /// Checkpoints in `store`, of guests under a QEMU.
    pub fn of(store: Store, TestedQemu { qemu, facts, .. }: &TestedQemu) -> Checkpoints {
        Checkpoints(Provider::Store(Maker {
            store,
            qemu: qemu.clone(),
            version: facts.version.clone(),
            origin: Arc::default(),
            exchange: None,
        }))
    }

    /// As [`Checkpoints::of`], but what `exchange` has is not made. `origin` is what is known of the QEMU
    /// already, or is filled: to ask it takes as long as to start it.
    pub fn exchanged(
        store: Store,
        TestedQemu { qemu, facts, .. }: &TestedQemu,
        origin: Arc<OnceLock<Origin>>,
        exchange: Box<dyn Exchange>,
    ) -> Checkpoints {
        Checkpoints(Provider::Store(Maker {
            store,
            qemu: qemu.clone(),
            version: facts.version.clone(),
            origin,
            exchange: Some(exchange),
        }))
    }

    /// Checkpoints that are asked for elsewhere: inside a lab.
    pub fn elsewhere(ask: Elsewhere) -> Checkpoints {
        Checkpoints(Provider::Elsewhere(ask))
    }

    /// Where a guest comes from that should start as `wanted`: from the warmest state that fits, and
    /// why it is a colder one. `plain` is the VM without the trial's fault.
    ///
    /// # Errors
    /// [`CannotRun`] when the host does not let a checkpoint be made or read.
    pub fn source(
        &self,
        wanted: StartState,
        spec: &VmSpec,
        plain: &VmSpec,
        guest: &Guest,
    ) -> anyhow::Result<(Source, Vec<String>)> {
        match &self.0 {
            Provider::Store(own) => own.source(wanted, spec, plain, guest),
            Provider::Elsewhere(ask) => ask(spec.nics.first().map_or(0, |nic| nic.place)),
        }
    }
}

impl Maker {
    fn source(
        &self,
        wanted: StartState,
        spec: &VmSpec,
        plain: &VmSpec,
        guest: &Guest,
    ) -> anyhow::Result<(Source, Vec<String>)> {
        let mut notes = Vec::new();
        for saved in candidates(wanted, spec, plain) {
            match self.get(*saved, spec, guest)? {
                Ok(checkpoint) => return Ok((Source::Restore(checkpoint, *saved), notes)),
                Err(why) => notes.push(format!(
                    "no checkpoint of {}: {why}",
                    what(*saved, spec, guest)
                )),
            }
        }
        Ok((Source::Boot, notes))
    }

    fn get(
        &self,
        saved: Saved,
        spec: &VmSpec,
        guest: &Guest,
    ) -> anyhow::Result<Result<Checkpoint, String>> {
        let saved_spec = without_vhost(saved.of(spec), &self.version);
        let key = self
            .origin(spec)?
            .key(&saved_spec, &preparation(&saved_spec, guest).join("\n"));
        let what = what(saved, spec, guest);
        let say = |line: &str| errln!("{line}");
        self.store.get(&key, &what, &say, |directory| {
            match self.fetch(&key, directory) {
                Ok(Some(mode)) => return Ok(Ok(mode)),
                Ok(None) => {}
                Err(why) => {
                    say(&format!(
                        "the checkpoint of {what} cannot be had, and is made: {why:#}"
                    ));
                    empty(directory)?;
                }
            }
            let mut whys = Vec::new();
            for mode in [Mode::Mapped, Mode::Streamed] {
                match self.make(mode, saved, &saved_spec, guest, directory) {
                    Ok(()) => {
                        if let Err(why) = self.offer(&key, &what, mode, directory) {
                            say(&format!("the checkpoint of {what} is not kept: {why:#}"));
                        }
                        return Ok(Ok(mode));
                    }
                    Err(error)
                        if find::<CannotRun>(&error).is_some()
                            && find::<EndedAtStart>(&error).is_none() =>
                    {
                        return Err(error);
                    }
                    Err(error) => whys.push(format!("{mode:?}: {error:#}")),
                }
            }
            Ok(Err(whys.join("; ")))
        })
    }

    /// Copies the checkpoint of that key to `directory`, where the exchange has it; how it is restored.
    fn fetch(&self, key: &str, directory: &Path) -> anyhow::Result<Option<Mode>> {
        let Some(exchange) = &self.exchange else {
            return Ok(None);
        };
        let Some(kept) = exchange.kept(key)? else {
            return Ok(None);
        };
        kept.copy_to(directory)?;
        Ok(Some(kept.mode))
    }

    fn offer(&self, key: &str, what: &str, mode: Mode, directory: &Path) -> anyhow::Result<()> {
        match &self.exchange {
            None => Ok(()),
            Some(exchange) => {
                let made = Checkpoint::unlocked(directory.to_owned(), mode);
                exchange.offer(key, what, &Kept::of(&made)?)
            }
        }
    }

    fn origin(&self, spec: &VmSpec) -> anyhow::Result<&Origin> {
        if let Some(origin) = self.origin.get() {
            return Ok(origin);
        }
        let origin = Origin::of(&self.qemu, &self.version, spec.accel)?;
        Ok(self.origin.get_or_init(|| origin))
    }

    /// Boots `spec`, saves it to `directory`, and shows that it answers when restored.
    fn make(
        &self,
        mode: Mode,
        saved: Saved,
        spec: &VmSpec,
        guest: &Guest,
        directory: &Path,
    ) -> anyhow::Result<()> {
        apart("save", || self.save(mode, spec, guest, directory))?;
        apart("restore", || {
            let bridge = Bridge::create(bridge::MTU)?;
            let checkpoint = Checkpoint::unlocked(directory.to_owned(), mode);
            let source = Source::Restore(checkpoint, saved);
            let launch = self.launch(directory);
            start::guest(&launch, spec.clone(), &source, &bridge, |_| (), |_| Ok(())).map(drop)
        })
    }

    fn save(
        &self,
        mode: Mode,
        spec: &VmSpec,
        guest: &Guest,
        directory: &Path,
    ) -> anyhow::Result<()> {
        let bridge = Bridge::create(bridge::MTU)?;
        let mut spec = spec.clone();
        if mode == Mode::Mapped {
            room_for(&spec, directory)?;
            spec.ram = Ram::Shared(directory.join(RAM));
        }
        let launch = self.launch(directory);
        let started = start::guest(&launch, spec, &Source::Boot, &bridge, |_| (), |_| Ok(()))?;
        if guest.initrd.is_none() {
            started.agent.until("[ -e /run/booted ]", BOOTED, "ps")?;
        }
        for (nic, command) in started
            .vm
            .spec
            .nics
            .iter()
            .zip(preparation(&started.vm.spec, guest))
        {
            let link = link::await_link(&started.agent, nic.mac)?;
            started.agent.sh(&command.replace(DEVICE, &link.name))?;
        }
        for nic in &started.vm.spec.nics {
            start::first_reply(addr::guest(nic.place), deadline::FIRST_PING)?;
        }
        started.vm.save(mode, &directory.join(STATE))
    }

    fn launch<'a>(&'a self, directory: &'a Path) -> Launch<'a> {
        Launch {
            qemu: &self.qemu,
            directory,
            show: false,
        }
    }
}

/// Removes what a copy that failed has left of a checkpoint.
fn empty(directory: &Path) -> anyhow::Result<()> {
    for name in Mode::Mapped.files() {
        let file = directory.join(name);
        match std::fs::remove_file(&file) {
            Err(e) if e.kind() == std::io::ErrorKind::NotFound => {}
            other => other.or_cannot_run(|| format!("remove {}", file.display()))?,
        }
    }
    Ok(())
}

/// `spec` as it is saved, where there may be no vhost: what is behind its tap no guest can tell, but
/// for the one feature of virtio that a QEMU has and vhost has not (VIRTIO_F_RING_RESET, from 7.2 on),
/// which a guest that is restored onto vhost must not have negotiated.
fn without_vhost(mut spec: VmSpec, qemu_version: &str) -> VmSpec {
    let mut numbers = qemu_version.split('.').map(|n| n.parse().unwrap_or(0));
    let version: (u32, u32) = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    for nic in spec.nics.iter_mut().filter(|nic| nic.vhost) {
        nic.vhost = false;
        if version >= (7, 2) {
            nic.properties.push("queue_reset=off".into());
        }
    }
    spec
}

/// Stands for an interface's name until it is known.
const DEVICE: &str = "DEVICE";

/// What is done in the guest before it is saved, a command a NIC.
fn preparation(spec: &VmSpec, guest: &Guest) -> Vec<String> {
    spec.nics
        .iter()
        .map(|nic| {
            let address = addr::guest_with_prefix(nic.place);
            guest.dialect.command(Op::Address, DEVICE, &address)
        })
        .collect()
}

/// The states that a VM can start from in place of a boot, the warmest first.
fn candidates(wanted: StartState, spec: &VmSpec, plain: &VmSpec) -> &'static [Saved] {
    let without_nics = |spec: &VmSpec| Saved::WithoutNics.of(spec);
    // What it writes to its disk would not be saved.
    let disk = matches!(spec.boot, Boot::Disk(_));
    // QEMU neither saves a USB NIC nor restores a guest beside one (`unmigratable`, dev-network.c).
    let usb = |nic: &NicSpec| is_usb(&nic.device) && !nic.hotplug;
    if disk
        || spec.nics.iter().any(usb)
        || wanted == StartState::Boot
        || without_nics(spec) != without_nics(plain)
    {
        return &[];
    }
    let warm = wanted == StartState::WarmNic && spec.nics == plain.nics;
    // Linux puts no NIC behind an IOMMU that it finds on the root bus by a rescan (seen on 6.1: it has
    // no iommu_group, and each of its accesses is a fault); one in a port it does.
    let found_cold = !spec.iommu || spec.nics.iter().all(|nic| nic.hotplug);
    match (warm, found_cold) {
        (true, true) => &[Saved::WithNics, Saved::WithoutNics],
        (true, false) => &[Saved::WithNics],
        (false, true) => &[Saved::WithoutNics],
        (false, false) => &[],
    }
}

fn what(saved: Saved, spec: &VmSpec, guest: &Guest) -> String {
    let nics: Vec<&str> = spec.nics.iter().map(|nic| nic.device.as_str()).collect();
    match saved {
        Saved::WithNics => format!("{} with {} up", guest.name, nics.join(", ")),
        Saved::WithoutNics => format!("{} without a NIC, {} CPU", guest.name, spec.cpus),
    }
}

/// A disk that fills up would end QEMU by SIGBUS, in the middle of the guest's boot.
fn room_for(spec: &VmSpec, directory: &Path) -> anyhow::Result<()> {
    let stat = nix::sys::statvfs::statvfs(directory)
        .or_cannot_run(|| format!("ask for the free space of {}", directory.display()))?;
    let free_mib = stat.blocks_available() * stat.fragment_size() / (1 << 20);
    let needed = u64::from(spec.memory_mib) + 64;
    anyhow::ensure!(
        free_mib >= needed,
        "{} has {free_mib} MiB free, and {needed} MiB may be needed",
        directory.display()
    );
    Ok(())
}

/// On a thread and in a network of its own: the caller may be in one that is in use.
fn apart(what: &str, work: impl FnOnce() -> anyhow::Result<()> + Send) -> anyhow::Result<()> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new()
            .name(format!("checkpoint {what}"))
            .spawn_scoped(scope, || {
                let _namespace = Namespace::enter()?;
                work()
            })
            .or_cannot_run(|| "start a thread".into())?;
        let result = thread
            .join()
            .unwrap_or_else(|_| Err(anyhow!("the thread panicked")));
        result.with_context(|| format!("cannot {what} it"))
    })
}
