//! What all trials of a process share: proved once, read by all.

use super::deadline;
use super::settings::{AccelChoice, Settings};
use crate::cases::Start;
use crate::guest::image::{self, GuestImage};
use crate::host::accel::{self, Proven};
use crate::host::{Accel, HostFacts};
use crate::matrix::Cell;
use crate::matrix::schema::Profile;
use crate::plan::PlannedTrial;
use crate::report;
use crate::testbed::checkpoints::Checkpoints;
use crate::vm::cmdline::VmSpec;
use crate::vm::standard::{self, Kit};
use std::collections::BTreeMap;

/// Everything a trial needs beyond itself.
pub struct Context {
    /// The user's settings.
    pub settings: Settings,
    /// How often and how long.
    pub profile: Profile,
    /// What this host can do.
    pub facts: HostFacts,
    /// The built image.
    pub image: GuestImage,
    /// The accelerator, with why.
    pub proven: Proven,
    /// Saved guests.
    pub checkpoints: Checkpoints,
}

impl Context {
    /// Builds the image where it is not built, proves the accelerator where it is not proved, sets
    /// the speed factor.
    ///
    /// # Errors
    /// [`crate::error::CannotRun`], with what to do about it.
    pub fn prepare(
        settings: Settings,
        profile: Profile,
        facts: HostFacts,
    ) -> anyhow::Result<Context> {
        let say = |line: &str| eprintln!("{line}");
        let image = image::ensure(&settings.images(), &say)?;
        let proven = accel::prove(
            &settings.qemu,
            &settings.firmware,
            &image,
            &settings.host_cache(),
            settings.accel,
            &say,
        )?;
        deadline::set_speed(proven.speed);
        let version = facts.qemu_version.clone();
        let checkpoints = Checkpoints::new(settings.checkpoints(), settings.qemu.clone(), version);
        Ok(Context {
            checkpoints,
            settings,
            profile,
            facts,
            image,
            proven,
        })
    }

    /// "QEMU 7.2.22 under TCG, guest kernel 6.1", the line above the progress; why TCG is in the
    /// reports.
    pub fn headline(&self) -> String {
        format!(
            "QEMU {} under {}, guest kernel {}",
            self.facts.qemu_version,
            self.proven.accel.name(),
            self.image.kernel_release
        )
    }

    /// The VM of a trial.
    pub fn vm_spec(&self, trial: &PlannedTrial) -> VmSpec {
        standard::spec(trial, &self.kit())
    }

    /// The VM of a trial as it would be without the trial's fault.
    pub fn plain_vm_spec(&self, trial: &PlannedTrial) -> VmSpec {
        standard::plain(trial, &self.kit())
    }

    /// The VM of a cell with its NIC in that place, and nothing that a case asks for.
    pub fn bare_vm_spec(&self, cell: &Cell, place: u8) -> VmSpec {
        standard::bare(cell, &self.kit(), place)
    }

    /// What a guest that is not itself on trial starts from.
    pub fn warmest(&self) -> Start {
        if self.settings.boot {
            Start::Boot
        } else {
            Start::WarmNic
        }
    }

    fn kit(&self) -> Kit {
        kit(&self.settings, &self.image, self.proven.accel, &self.facts)
    }

    /// What the reports say of this run; `stand_ins` names guests that the built image stands in for.
    pub fn properties(&self, stand_ins: &[String]) -> BTreeMap<String, String> {
        let uname = nix::sys::utsname::uname().ok();
        let text = |value: Option<&std::ffi::OsStr>| {
            value
                .map(|v| v.to_string_lossy().into_owned())
                .unwrap_or_default()
        };
        let mut map = BTreeMap::new();
        let mut put = |key: &str, value: String| map.insert(key.to_owned(), value);
        put(
            "qemu",
            format!(
                "{} ({})",
                self.facts.qemu_version,
                self.settings.qemu.display()
            ),
        );
        put("accelerator", self.proven.reason.clone());
        put("guest_kernel", self.image.kernel_release.clone());
        put("host_kernel", text(uname.as_ref().map(|u| u.release())));
        put(report::HOST, text(uname.as_ref().map(|u| u.nodename())));
        put("profile", self.settings.profile.clone());
        put("speed", format!("{:.2}", self.proven.speed));
        if !stand_ins.is_empty() {
            put(report::STAND_INS, stand_ins.join(", "));
        }
        map
    }
}

/// As [`kit`], of what is built and proved already; placeholders stand for the rest.
pub fn kit_so_far(settings: &Settings, facts: &HostFacts) -> Kit {
    let image = image::built(&settings.images());
    let (qemu, firmware) = (&settings.qemu, &settings.firmware);
    let proven = image.as_ref().and_then(|image| {
        accel::known(
            qemu,
            firmware,
            image,
            &settings.host_cache(),
            settings.accel,
        )
    });
    let accel = match (proven, settings.accel) {
        (Some(proven), _) => proven.accel,
        (None, AccelChoice::Kvm) => Accel::Kvm,
        (None, _) => Accel::Tcg,
    };
    match image {
        Some(image) => kit(settings, &image, accel, facts),
        None => Kit {
            accel,
            kernel: "VMLINUX-OF-THE-IMAGE".into(),
            initrd: "INITRD-OF-THE-IMAGE".into(),
            parameters: parameters(accel),
            firmware: settings.firmware.clone(),
            generation_id: generation_id(facts),
        },
    }
}

fn generation_id(facts: &HostFacts) -> bool {
    facts.qemu_devices.iter().any(|device| device == "vmgenid")
}

/// What the image and the settings give every VM.
pub fn kit(settings: &Settings, image: &GuestImage, accel: Accel, facts: &HostFacts) -> Kit {
    Kit {
        generation_id: generation_id(facts),
        accel,
        kernel: image.kernel().to_owned(),
        initrd: image.initrd.clone(),
        parameters: parameters(accel),
        firmware: settings.firmware.clone(),
    }
}

/// Under TCG a loaded host lets the kernel measure its TSC several times too slow; the guest's clock
/// then runs that much too fast, for as long as its checkpoint is kept. The HPET needs no measuring.
fn parameters(accel: Accel) -> String {
    match accel {
        Accel::Kvm => image::KERNEL_CMDLINE.to_owned(),
        Accel::Tcg => format!("{} tsc=unstable", image::KERNEL_CMDLINE),
    }
}
