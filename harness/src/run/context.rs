//! What all trials of a process share: proved once, read by all.

use super::planned::Planned;
use crate::base::artifacts::Artifacts;
use crate::base::deadline;
use crate::base::error::Skip;
use crate::guest::image::{self, GuestImage};
use crate::host::accel::{self, Proven};
use crate::host::qemu_facts::QemuFacts;
use crate::lab::Outside;
use crate::matrix::schema::{Guest, Profile};
use crate::plan::{Action, PlannedTrial};
use crate::settings::{AccelChoice, Settings};
use crate::testbed::Testbed;
use crate::testbed::checkpoints::Checkpoints;
use crate::testbed::stock::{self, Stock, SuiteImages};
use crate::vm::accel::Accel;
use crate::vm::checkpoint::store::Store;
use crate::vm::process::Handle;
use crate::vm::qemu::Qemu;
use crate::vm::standard::Kit;
use crate::vm::start_state::StartState;
use report::errln;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything a trial needs beyond itself.
pub struct Context {
    /// The user's settings.
    pub settings: Settings,
    /// How often and how long.
    pub profile: Profile,
    /// The accelerator, with why.
    pub proven: Proven,
    /// What testbeds are made from.
    pub stock: Arc<Stock>,
    /// The files that guests of the matrix are made of beside the built image.
    pub guest_files: Vec<PathBuf>,
}

impl Context {
    /// Builds the images that `selected` needs where they are not built, proves the accelerator
    /// where it is not proved, sets the speed factor.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`], with what to do about it.
    pub fn prepare(
        settings: Settings,
        planned: Planned,
        selected: &[PlannedTrial],
    ) -> anyhow::Result<Context> {
        let say = |line: &str| errln!("{line}");
        let (image, suites) = images(&settings, selected)?;
        let qemu = Qemu::under_test(&settings);
        let proven = accel::prove(&qemu, &image, &settings.host_cache(), settings.accel, &say)?;
        let store = Store::new(settings.checkpoints());
        let version = planned.capabilities.qemu.version.clone();
        let checkpoints = Checkpoints::new(store, qemu, version);
        Ok(Context::new(
            settings,
            planned,
            proven,
            image,
            suites,
            checkpoints,
        ))
    }

    /// A context from what is already proved and built. Sets the speed factor.
    pub fn new(
        settings: Settings,
        planned: Planned,
        proven: Proven,
        image: GuestImage,
        suites: SuiteImages,
        checkpoints: Checkpoints,
    ) -> Context {
        deadline::set_speed(proven.speed);
        let stock = Stock {
            qemu: Qemu::under_test(&settings),
            facts: planned.capabilities.qemu,
            accel: proven.accel,
            image,
            suites,
            checkpoints,
            warmest: match settings.boot {
                true => StartState::Boot,
                false => StartState::WarmNic,
            },
            echo: settings.show,
        };
        Context {
            stock: Arc::new(stock),
            guest_files: planned.matrix.guest_files().cloned().collect(),
            profile: planned.profile,
            settings,
            proven,
        }
    }

    /// The testbed of a trial, built on the calling thread; `started` is handed QEMU as soon as there is
    /// one.
    ///
    /// # Errors
    /// As [`Testbed::build`]; [`Skip`], where the guest's image could not be built.
    pub fn testbed(
        &self,
        trial: &PlannedTrial,
        artifacts: Artifacts,
        started: impl FnOnce(Handle),
    ) -> anyhow::Result<Testbed> {
        let kit = self.stock.kit(&trial.cell.guest)?;
        let order = trial.order(&self.profile, kit);
        Testbed::build(order, &self.stock, artifacts, started)
    }

    /// The release of the kernel that the built image gives `guest`; of a disk image or a kernel of the
    /// matrix file's only the guest itself can tell.
    pub fn kernel_release(&self, guest: &Guest) -> Option<String> {
        let image = self.stock.image_of(guest).ok()?;
        guest.is_stand_in().then(|| image.kernel_release.clone())
    }

    /// What a lab needs of it.
    pub fn outside(&self) -> Outside<'_> {
        Outside {
            settings: &self.settings,
            proven: &self.proven,
            stock: &self.stock,
            guest_files: &self.guest_files,
        }
    }

    /// "QEMU 7.2.22 under TCG", the line above the progress; why TCG is in the reports.
    pub fn headline(&self) -> String {
        format!(
            "QEMU {} under {}",
            self.stock.facts.version,
            self.proven.accel.name()
        )
    }

    /// The guests of `selected` for which the built image stands in, each with the kernel that it
    /// really has.
    fn stand_ins(&self, selected: &[PlannedTrial]) -> Vec<String> {
        let mut names = BTreeSet::new();
        let guests = selected.iter().map(|trial| &trial.cell.guest);
        guests
            .filter(|guest| guest.is_stand_in() && names.insert(&guest.name))
            .filter_map(|guest| Some((guest, self.stock.image_of(guest).ok()?)))
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
                self.stock.facts.version,
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
/// [`crate::base::error::CannotRun`], with what to do about it.
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
pub fn kit_so_far(settings: &Settings, facts: &QemuFacts, guest: &Guest) -> Kit {
    let image = image::built(&settings.images(), guest.kernel_suite());
    let own = image::built(&settings.images(), None);
    let qemu = Qemu::under_test(settings);
    let proven = own
        .as_ref()
        .and_then(|image| accel::known(&qemu, image, &settings.host_cache(), settings.accel));
    let accel = match (proven, settings.accel) {
        (Some(proven), _) => proven.accel,
        (None, AccelChoice::Kvm) => Accel::Kvm,
        (None, _) => Accel::Tcg,
    };
    stock::kit(image.as_ref(), accel, facts)
}
