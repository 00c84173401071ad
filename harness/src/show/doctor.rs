//! What this host can do for the matrix, a line each, with what each lack costs.

use crate::cases;
use crate::guest::image;
use crate::host::accel::{self, BOOT_DEADLINE};
use crate::host::kernel_facts::{self, KernelFacts};
use crate::host::qemu_facts::QemuFacts;
use crate::host::qemus::Qemus;
use crate::matrix::load;
use crate::settings::Settings;
use crate::vm::accel::Accel;
use crate::vm::checkpoint::store::Store;
use crate::vm::qemu::Qemu;
use report::errln;

/// Examines QEMU, vhost, the guest image and the accelerator, building and proving what is not yet.
pub fn examine(settings: &Settings) -> String {
    let mut lines = Lines(String::new());
    // As a run starts it, whose proof of the accelerator this is.
    let qemu = match Qemus::default_of(settings) {
        Err(error) => {
            lines.lack("QEMU", &format!("{error:#}; no trial can run"));
            Qemu::default_of(settings)
        }
        Ok(Qemus { default, .. }) => {
            let (at, facts) = (default.qemu.program.display(), &default.facts);
            lines.ok("QEMU", &format!("{} at {at}", facts.version));
            models(settings, facts, &mut lines);
            vhost(&kernel_facts::of_this_kernel(), &mut lines);
            default.qemu
        }
    };
    checkpoints(settings, &mut lines);
    let say = |line: &str| errln!("{line}");
    let image = match image::ensure(&settings.images(), None, &say) {
        Ok(image) => image,
        Err(error) => {
            lines.lack(
                "guest image",
                &format!("{error:#}; no stand-in guest can boot"),
            );
            return lines.0;
        }
    };
    lines.ok(
        "guest image",
        &format!(
            "kernel {} at {}",
            image.kernel_release,
            image.initrd.display()
        ),
    );
    match accel::prove(
        &qemu,
        &image,
        &settings.host_cache(),
        settings.accel,
        BOOT_DEADLINE,
        &say,
    ) {
        Ok(proven) if proven.accel == Accel::Kvm => lines.ok("KVM", &proven.reason),
        Ok(proven) => lines.lack(
            "KVM",
            &format!("{}; guests run some ten times slower", proven.reason),
        ),
        Err(error) => lines.lack("accelerator", &format!("{error:#}; no trial can run")),
    }
    lines.0
}

/// What saved guests take of the disk, and how far they may grow.
fn checkpoints(settings: &Settings, lines: &mut Lines) {
    let store = Store::new(settings.checkpoints());
    let taken: u64 = store.list().iter().map(|entry| entry.bytes).sum();
    let at = settings.checkpoints();
    match store.limit() {
        Ok(limit) => lines.ok(
            "checkpoints",
            &format!(
                "{} MiB of at most {} MiB at {}; the longest unused go, also where the disk is full",
                taken >> 20,
                limit >> 20,
                at.display()
            ),
        ),
        Err(error) => lines.lack("checkpoints", &format!("{error:#}")),
    }
}

fn models(settings: &Settings, facts: &QemuFacts, lines: &mut Lines) {
    let names: Vec<&str> = cases::all().iter().map(|case| case.name).collect();
    match load::load(&settings.matrix, &names) {
        Err(error) => lines.lack("matrix", &error.to_string()),
        Ok(matrix) => {
            for guest in (matrix.axes.guest.iter()).filter_map(|name| matrix.guests.get(name)) {
                let suite = guest.kernel_suite();
                let why = suite.and_then(|suite| image::obstacle(&settings.images(), suite));
                if let Some(why) = why {
                    let text = format!("{}: {why}; its trials are skipped", guest.name);
                    lines.lack("guest kernel", &text);
                }
            }
            for nic in matrix
                .axes
                .nic
                .iter()
                .filter_map(|name| matrix.nics.get(name))
            {
                let (name, device) = (&nic.name, &nic.device);
                if facts.has_device(device) {
                    lines.ok("NIC model", &format!("{name}: QEMU has {device}"));
                } else {
                    lines.lack(
                        "NIC model",
                        &format!("{name}: this QEMU has no {device}; its trials are skipped"),
                    );
                }
            }
        }
    }
}

fn vhost(facts: &KernelFacts, lines: &mut Lines) {
    match (facts.vhost_obstacle.is_none(), facts.zcopytx) {
        (false, _) => lines.lack(
            "vhost",
            "no /dev/vhost-net; vhost and vhost_zcopy trials run in a lab",
        ),
        (true, zcopy) => {
            let now = match zcopy {
                Some(true) => {
                    "experimental_zcopytx=1: vhost_zcopy trials run here, vhost trials in a lab, or here too with --allow-module-reload"
                }
                Some(false) => {
                    "experimental_zcopytx=0: vhost trials run here, vhost_zcopy trials in a lab, or here too with --allow-module-reload"
                }
                None => "without experimental_zcopytx: vhost_zcopy trials run in a lab",
            };
            lines.ok("vhost", now);
        }
    }
}

struct Lines(String);

impl Lines {
    fn ok(&mut self, what: &str, text: &str) {
        self.push("ok", what, text);
    }

    fn lack(&mut self, what: &str, text: &str) {
        self.push("lack", what, text);
    }

    /// One line, whatever QEMU said in several.
    fn push(&mut self, word: &str, what: &str, text: &str) {
        let text = text.lines().collect::<Vec<_>>().join(" ");
        self.0 += &format!("{word:<4}  {what:<16} {text}\n");
    }
}
