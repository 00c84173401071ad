//! A guest whose kernel starts the same kernel anew by itself (kexec): no firmware runs and QEMU resets nothing, so its
//! NIC's driver finds the NIC as the one before has left it, with frames that keep coming.

use super::driver_reload::{GROUP_LEFT, MAC_LEFT, MTU_LEFT, OPS};
use super::faults::{AT_START, wrap};
use super::migrate::Identity;
use super::migrate_state::with_queues;
use super::surviving::State;
use super::{Case, Fault, Moment, Red, transfer};
use crate::base::deadline;
use crate::base::error::Skip;
use crate::guest::image;
use crate::testbed::Testbed;
use crate::vm::cmdline::{AGENT_ID, Boot, VmSpec};
use anyhow::{Context as _, bail, ensure};

/// Where the guest has what it starts.
const KERNEL: &str = "/tmp/nicmatrix-kernel";
const INITRD: &str = "/tmp/nicmatrix-initrd";
/// Has the kernel that is loaded take over, with the interfaces as they are: nothing but the drivers' own end stands
/// between the NIC and the next kernel.
const TAKE_OVER: &str = "kexec -e -x";

/// Has the guest do something else where the next kernel was to take over.
fn in_place_of_it(bed: &Testbed, script: &str) -> anyhow::Result<()> {
    let script = format!("case \" $* \" in *' -e '*) {script}; exit;; esac; exec \"$REAL\" \"$@\"");
    wrap(bed, "kexec", &script)
}

/// Beyond the plan.
pub static KEXEC: Case = Case {
    name: "kexec",
    passes: "while requests come to a NIC that is up, the guest's kernel starts the same kernel anew, without a reset by QEMU: it is another boot, and of a MAC, an MTU, VLANs, multicast groups, promiscuous and all-multicast mode, offloads switched off and (virtio) four queues, set before, nothing is left: the NIC has its own MAC for the guest and for QEMU, answers, takes no frame of before, and offers its offloads",
    vm: kexec_vm,
    ops: OPS,
    seconds: |_| 180.0,
    faults: &[
        Fault {
            name: "runs_on",
            breaks: "the guest's kernel runs on",
            inject: |bed| in_place_of_it(bed, ":"),
            red: Red::Missed(deadline::TAKEN_OVER),
            ..AT_START
        },
        Fault {
            name: "agent_anew",
            breaks: "the guest's kernel runs on, and its agent starts anew",
            inject: |bed| {
                let script = "killall qemu-ga; while pidof qemu-ga >/dev/null; do sleep 0.01; done; \
                              qemu-ga -d -m virtio-serial -p /dev/virtio-ports/org.qemu.guest_agent.0 -t /run";
                in_place_of_it(bed, script)
            },
            red: Red::Says("has not started anew"),
            ..AT_START
        },
        Fault {
            name: "resets",
            breaks: "the guest boots through its firmware",
            inject: |bed| {
                bed.vm
                    .call_raw("set-action", serde_json::json!({ "reboot": "reset" }))?;
                in_place_of_it(bed, "reboot -f")
            },
            red: Red::Says("QEMU reset the machine"),
            ..AT_START
        },
        MAC_LEFT,
        MTU_LEFT,
        GROUP_LEFT,
    ],
    run: kexec,
    ..Case::PLAIN
};

/// With room for the next kernel and its initramfs, of which kexec and the kernel each have a copy.
fn kexec_vm(spec: &mut VmSpec) {
    with_queues(spec);
    spec.memory_mib += 64;
}

fn kexec(bed: &mut Testbed) -> anyhow::Result<()> {
    let can = "command -v kexec >/dev/null && [ -e /sys/kernel/kexec_loaded ]";
    if bed.agent.run(can)?.code != 0 {
        let reason = "the guest has no `kexec` (kexec-tools), or a kernel without it";
        return Err(Skip(reason.into()).into());
    }
    let link = bed.up()?;
    load(bed)?;
    let mut state = State::set(bed, &link)?;
    state.set_promiscuous(bed, true)?;
    bed.notes.push(state.to_string());
    // Intel's drivers leave a NIC receiving that is to wake the machine. QEMU's, which knows no sleep, then writes where
    // the kernel before had its buffers, once the next one's driver lets it: "BUG: Bad page state" (e1000e, 5.10 on 11.1).
    let no_wake = format!("ethtool -s {} wol d 2>/dev/null; true", state.link.name);
    bed.agent.sh(&no_wake)?;
    let was = Identity::of(bed)?;
    // Requests come all the while.
    let stream = bed.ping().interval(0.05).spawn()?;
    take_over(bed)?;
    drop(stream);
    was.expect_other(bed)?;
    bed.moment(Moment::Reloaded)?;
    state.expect_forgotten(bed)?;
    bed.expect_quiet_kernel()
}

/// Has the guest load its own kernel and initramfs: those of a built image come to it through the NIC.
fn load(bed: &Testbed) -> anyhow::Result<()> {
    let (kernel, initrd) = match &bed.vm.spec.boot {
        Boot::Kernel { kernel, initrd, .. } => {
            transfer::give(bed, &image::with_setup_code(kernel), KERNEL)?;
            transfer::give(bed, &image::packed(initrd), INITRD)?;
            (KERNEL, INITRD)
        }
        Boot::Disk(_) => (
            "/boot/vmlinuz-$(uname -r)",
            "/boot/initramfs-$(uname -r).img",
        ),
        Boot::Network(_) => bail!("a guest that boots from its NIC has no kernel to start anew"),
    };
    // Its checksum of itself takes seconds under TCG.
    let command = format!(
        "kexec -l -i {kernel} --initrd={initrd} --reuse-cmdline && rm -f {KERNEL} {INITRD}"
    );
    let limit = deadline::KEXEC_LOADED.start();
    bed.agent.sh_for(&command, limit.span())?;
    let loaded = bed.agent.sh("cat /sys/kernel/kexec_loaded")?;
    ensure!(
        loaded.trim() == "1",
        "`kexec -l` succeeded, and /sys/kernel/kexec_loaded is {loaded:?}"
    );
    Ok(())
}

/// Has the next kernel take over: it finds the agent's port anew, and QEMU resets nothing.
fn take_over(bed: &Testbed) -> anyhow::Result<()> {
    let mark = bed.vm.qmp.mark();
    bed.agent.start_last(TAKE_OVER)?;
    bed.vm.await_event(mark, deadline::TAKEN_OVER, |event| {
        let agents = event.data["id"] == AGENT_ID && event.data["open"] == false;
        event.name == "VSERPORT_CHANGE" && agents
    })?;
    bed.await_guest().context("after kexec")?;
    let events = bed.vm.qmp.events(mark);
    ensure!(
        events.iter().all(|event| event.name != "RESET"),
        "QEMU reset the machine where the guest's kernel was to start the next one"
    );
    Ok(())
}
