//! What all trials of a process share: proved once, read by all.

use super::deadline;
use super::settings::{AccelChoice, Settings};
use crate::cases::Start;
use crate::error::Skip;
use crate::guest::image::{self, GuestImage};
use crate::host::accel::{self, Proven};
use crate::host::{Accel, HostFacts};
use crate::matrix::Cell;
use crate::matrix::schema::{Guest, Profile};
use crate::plan::{Action, PlannedTrial};
use crate::testbed::checkpoints::Checkpoints;
use crate::vm::checkpoint::store::Store;
use crate::vm::cmdline::VmSpec;
use crate::vm::standard::{self, Kit};
use report::errln;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;

/// By suite, the built image with its kernel, or why there is none.
pub type SuiteImages = BTreeMap<String, Result<GuestImage, Skip>>;

/// Everything a trial needs beyond itself.
pub struct Context {
    /// The user's settings.
    pub settings: Settings,
    /// How often and how long.
    pub profile: Profile,
    /// What this host can do.
    pub facts: HostFacts,
    /// The built image with the system's own kernel.
    pub image: GuestImage,
    /// The built images with other suites' kernels.
    pub suites: SuiteImages,
    /// The accelerator, with why.
    pub proven: Proven,
    /// Saved guests.
    pub checkpoints: Checkpoints,
}

impl Context {
    /// Builds the images that `selected` needs where they are not built, proves the accelerator
    /// where it is not proved, sets the speed factor.
    ///
    /// # Errors
    /// [`crate::error::CannotRun`], with what to do about it.
    pub fn prepare(
        settings: Settings,
        profile: Profile,
        facts: HostFacts,
        selected: &[PlannedTrial],
    ) -> anyhow::Result<Context> {
        let say = |line: &str| errln!("{line}");
        let (image, suites) = images(&settings, selected)?;
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
        let store = Store::new(settings.checkpoints());
        let checkpoints = Checkpoints::new(store, settings.qemu.clone(), version);
        Ok(Context {
            checkpoints,
            settings,
            profile,
            facts,
            image,
            suites,
            proven,
        })
    }

    /// The built image that stands in for `guest`.
    ///
    /// # Errors
    /// [`Skip`], where the suite that it stands on could not be had.
    pub fn image_of(&self, guest: &Guest) -> Result<&GuestImage, Skip> {
        match guest
            .kernel_suite()
            .and_then(|suite| self.suites.get(suite))
        {
            None => Ok(&self.image),
            Some(built) => built.as_ref().map_err(Clone::clone),
        }
    }

    /// Kernel, initramfs and kernel parameters of `guest`, as a boot loader takes them.
    ///
    /// # Errors
    /// As [`Context::image_of`].
    pub fn bootable(&self, guest: &Guest) -> Result<(PathBuf, PathBuf, &'static str), Skip> {
        let image = self.image_of(guest)?;
        let own = |file: &Option<PathBuf>, built: &PathBuf| file.as_ref().unwrap_or(built).clone();
        Ok((
            own(&guest.kernel, &image.bzimage),
            own(&guest.initrd, &image.initrd),
            image::KERNEL_CMDLINE,
        ))
    }

    /// "QEMU 7.2.22 under TCG", the line above the progress; why TCG is in the reports.
    pub fn headline(&self) -> String {
        format!(
            "QEMU {} under {}",
            self.facts.qemu_version,
            self.proven.accel.name()
        )
    }

    /// The VM of a trial.
    ///
    /// # Errors
    /// As [`Context::image_of`].
    pub fn vm_spec(&self, trial: &PlannedTrial) -> Result<VmSpec, Skip> {
        Ok(standard::spec(trial, &self.kit(&trial.cell.guest)?))
    }

    /// The VM of a trial as it would be without the trial's fault.
    ///
    /// # Errors
    /// As [`Context::image_of`].
    pub fn plain_vm_spec(&self, trial: &PlannedTrial) -> Result<VmSpec, Skip> {
        Ok(standard::plain(trial, &self.kit(&trial.cell.guest)?))
    }

    /// The VM of a cell with its NIC in that place, and nothing that a case asks for.
    ///
    /// # Errors
    /// As [`Context::image_of`].
    pub fn bare_vm_spec(&self, cell: &Cell, place: u8) -> Result<VmSpec, Skip> {
        Ok(standard::bare(cell, &self.kit(&cell.guest)?, place))
    }

    /// What a guest that is not itself on trial starts from.
    pub fn warmest(&self) -> Start {
        if self.settings.boot {
            Start::Boot
        } else {
            Start::WarmNic
        }
    }

    fn kit(&self, guest: &Guest) -> Result<Kit, Skip> {
        let image = self.image_of(guest)?;
        Ok(kit(
            &self.settings,
            Some(image),
            self.proven.accel,
            &self.facts,
        ))
    }

    /// The guests of `selected` for which the built image stands in, each with the kernel that it
    /// really has.
    fn stand_ins(&self, selected: &[PlannedTrial]) -> Vec<String> {
        let mut names = BTreeSet::new();
        let guests = selected.iter().map(|trial| &trial.cell.guest);
        guests
            .filter(|guest| guest.is_stand_in() && names.insert(&guest.name))
            .filter_map(|guest| Some((guest, self.image_of(guest).ok()?)))
            .map(|(guest, image)| {
                format!(
                    "{} ({} kernel {})",
                    guest.name,
                    image::distribution(),
                    image.kernel_release
                )
            })
            .collect()
    }

    /// What the reports say of this run of `selected`.
    pub fn properties(&self, selected: &[PlannedTrial]) -> BTreeMap<String, String> {
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
        put("host_kernel", text(uname.as_ref().map(|u| u.release())));
        put(report::HOST, text(uname.as_ref().map(|u| u.nodename())));
        put("profile", self.settings.profile.clone());
        put("speed", format!("{:.2}", self.proven.speed));
        let stand_ins = self.stand_ins(selected);
        if !stand_ins.is_empty() {
            put(report::STAND_INS, stand_ins.join(", "));
        }
        map
    }
}

/// The image with the system's own kernel, and those that the trials of `selected` need besides;
/// built where they are not built.
///
/// # Errors
/// [`crate::error::CannotRun`], with what to do about it.
pub fn images(
    settings: &Settings,
    selected: &[PlannedTrial],
) -> anyhow::Result<(GuestImage, SuiteImages)> {
    let say = |line: &str| errln!("{line}");
    let own = image::ensure(&settings.images(), None, &say)?;
    let needed: BTreeSet<&str> = selected
        .iter()
        .filter(|trial| trial.action == Action::Run)
        .filter_map(|trial| trial.cell.guest.kernel_suite())
        .collect();
    let mut suites = BTreeMap::new();
    for suite in needed {
        let built = image::ensure(&settings.images(), Some(suite), &say);
        let built = match built.map_err(|error| error.downcast::<Skip>()) {
            Ok(image) => Ok(image),
            Err(Ok(skip)) => Err(skip),
            Err(Err(error)) => return Err(error),
        };
        suites.insert(suite.to_owned(), built);
    }
    Ok((own, suites))
}

/// What a guest's VMs get, of what is built and proved already.
pub fn kit_so_far(settings: &Settings, facts: &HostFacts, guest: &Guest) -> Kit {
    let image = image::built(&settings.images(), guest.kernel_suite());
    let own = image::built(&settings.images(), None);
    let (qemu, firmware) = (&settings.qemu, &settings.firmware);
    let proven = own.as_ref().and_then(|image| {
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
    kit(settings, image.as_ref(), accel, facts)
}

/// What image, settings and QEMU give every VM; placeholders stand for an image that is not built.
fn kit(settings: &Settings, image: Option<&GuestImage>, accel: Accel, facts: &HostFacts) -> Kit {
    let (kernel, initrd) = match image {
        Some(image) => (image.kernel().to_owned(), image.initrd.clone()),
        None => ("VMLINUX-OF-THE-IMAGE".into(), "INITRD-OF-THE-IMAGE".into()),
    };
    Kit {
        accel,
        kernel,
        initrd,
        parameters: image::KERNEL_CMDLINE.to_owned(),
        firmware: settings.firmware.clone(),
        uefi: facts.uefi.clone().unwrap_or_else(|| "OVMF".into()),
        generation_id: facts.qemu_devices.iter().any(|device| device == "vmgenid"),
    }
}
