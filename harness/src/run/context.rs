//! What all trials of a process share: proved once, read by all.

use super::planned::Planned;
use crate::base::artifacts::Artifacts;
use crate::base::deadline;
use crate::base::error::{CannotRun, Skip};
use crate::guest::image::{self, GuestImage};
use crate::host::accel::{self, BOOT_DEADLINE, Proven};
use crate::host::qemus::{Qemus, TestedQemu};
use crate::host::zero_copy;
use crate::lab::Outside;
use crate::lab::claims::Claims;
use crate::matrix::schema::{Guest, Profile};
use crate::plan::{Action, PlannedTrial};
use crate::settings::{AccelChoice, Settings};
use crate::testbed::Testbed;
use crate::testbed::checkpoints::Checkpoints;
use crate::testbed::stock::{self, Stock, SuiteImages};
use crate::vm::accel::Accel;
use crate::vm::checkpoint::store::Store;
use crate::vm::process::Handle;
use crate::vm::standard::Kit;
use crate::vm::start_state::StartState;
use report::errln;
use report::name::DEFAULT_QEMU;
use std::collections::{BTreeMap, BTreeSet};
use std::path::PathBuf;
use std::sync::Arc;

/// Everything a trial needs beyond itself.
pub struct Context {
    /// The user's settings.
    pub settings: Settings,
    /// How often and how long.
    pub profile: Profile,
    /// What there is of each QEMU that trials run on, by its name; of the default one always.
    stocks: BTreeMap<String, Ready>,
    /// Every QEMU of the axis.
    qemus: Qemus,
    /// The files that guests of the matrix are made of beside the built image.
    pub guest_files: Vec<PathBuf>,
    claims: Claims,
}

/// A QEMU that trials can run on.
pub struct Ready {
    /// Its accelerator, with why.
    pub proven: Proven,
    /// What testbeds are made from.
    pub stock: Arc<Stock>,
}

impl Context {
    /// Builds the images that `selected` needs where they are not built, proves the accelerator of each
    /// QEMU where it is not proved, sets the speed factor.
    ///
    /// # Errors
    /// [`crate::base::error::CannotRun`], with what to do about it.
    pub fn prepare(
        settings: Settings,
        planned: Planned,
        selected: &[PlannedTrial],
    ) -> anyhow::Result<Context> {
        let say = |line: &str| errln!("{line}");
        zero_copy::sweep();
        let images = images(&settings, selected)?;
        let used: BTreeSet<&str> = selected
            .iter()
            .filter(|trial| trial.action == Action::Run)
            .map(|trial| &*trial.cell.qemu)
            // Labs run under it.
            .chain([DEFAULT_QEMU])
            .collect();
        let mut of_each = Vec::new();
        for (name, tested) in planned.capabilities.qemus.iter() {
            if !used.contains(name) {
                continue;
            }
            let cache = settings.host_cache();
            let proven = accel::prove(
                &tested.qemu,
                &images.0,
                &cache,
                settings.accel,
                BOOT_DEADLINE,
                &say,
            )?;
            let store = Store::new(settings.checkpoints());
            of_each.push((name.to_owned(), proven, Checkpoints::of(store, tested)));
        }
        Ok(Context::new(settings, &planned, images, of_each))
    }

    /// A context from what is already proved and built, for each QEMU of `of_each`. Sets the speed factor.
    pub fn new(
        settings: Settings,
        planned: &Planned,
        (image, suites): (GuestImage, SuiteImages),
        of_each: Vec<(String, Proven, Checkpoints)>,
    ) -> Context {
        let slowest = of_each.iter().map(|(_, proven, _)| proven.speed);
        deadline::set_speed(slowest.fold(1.0, f64::max));
        let qemus = &planned.capabilities.qemus;
        let of_each = of_each
            .into_iter()
            .filter_map(|(name, proven, checkpoints)| {
                let TestedQemu { qemu, facts, .. } = qemus.get(&name).ok()?.clone();
                let stock = Stock {
                    qemu,
                    facts,
                    accel: proven.accel,
                    image: image.clone(),
                    suites: suites.clone(),
                    checkpoints,
                    warmest: match settings.boot {
                        true => StartState::Boot,
                        false => StartState::WarmNic,
                    },
                    echo: settings.show,
                };
                let stock = Arc::new(stock);
                Some((name, Ready { proven, stock }))
            });
        Context {
            stocks: of_each.collect(),
            qemus: qemus.clone(),
            guest_files: planned.matrix.guest_files().cloned().collect(),
            claims: Claims::default(),
            profile: planned.profile.clone(),
            settings,
        }
    }

    /// What there is of the QEMU of that name.
    ///
    /// # Errors
    /// [`CannotRun`], where it was not prepared.
    pub fn ready(&self, qemu: &str) -> anyhow::Result<&Ready> {
        let ready = self.stocks.get(qemu);
        ready.ok_or_else(|| CannotRun(format!("the QEMU {qemu} was not prepared")).into())
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
        let stock = &self.ready(&trial.cell.qemu)?.stock;
        let kit = stock.kit(&trial.cell.guest)?;
        let order = trial.order(&self.profile, kit);
        Testbed::build(order, stock, artifacts, started)
    }

    /// The release of the kernel that the built image gives `guest`; of a disk image or a kernel of the
    /// matrix file's only the guest itself can tell.
    pub fn kernel_release(&self, guest: &Guest) -> Option<String> {
        let (_, Ready { stock, .. }) = self.stocks.first_key_value()?;
        let image = stock.image_of(guest).ok()?;
        guest.is_stand_in().then(|| image.kernel_release.clone())
    }

    /// What a lab needs of it, and its trials on the QEMU of that name.
    ///
    /// # Errors
    /// As [`Context::ready`].
    pub fn outside(&self, qemu: &str) -> anyhow::Result<Outside<'_>> {
        let default = self.ready(DEFAULT_QEMU)?;
        let of_trial = self.ready(qemu)?;
        Ok(Outside {
            settings: &self.settings,
            qemus: &self.qemus,
            proven: &default.proven,
            stock: &default.stock,
            trial_proven: &of_trial.proven,
            trial_stock: &of_trial.stock,
            claims: &self.claims,
            guest_files: &self.guest_files,
        })
    }

    /// "QEMU 7.2.22 under TCG", the line above the progress, with names where that is so of several; why TCG is in the
    /// reports.
    pub fn headline(&self, selected: &[PlannedTrial]) -> String {
        let used: BTreeSet<&str> = selected.iter().map(|trial| &*trial.cell.qemu).collect();
        let each = self.stocks.iter();
        let each = each.filter(|(name, _)| used.contains(name.as_str()));
        let mut alike: BTreeMap<String, Vec<&str>> = BTreeMap::new();
        for (name, Ready { proven, stock }) in each {
            let words = format!("QEMU {} under {}", stock.facts.version, proven.accel.name());
            alike.entry(words).or_default().push(name);
        }
        let words = alike.into_iter().map(|(words, names)| match names[..] {
            [_] => words,
            _ => format!("{words} ({})", names.join(", ")),
        });
        words.collect::<Vec<_>>().join(", ")
    }

    /// The guests of `selected` for which the built image stands in, each with the kernel that it
    /// really has.
    fn stand_ins(&self, selected: &[PlannedTrial]) -> Vec<String> {
        let Some(Ready { stock: default, .. }) = self.stocks.get(DEFAULT_QEMU) else {
            return Vec::new();
        };
        let mut names = BTreeSet::new();
        let guests = selected.iter().map(|trial| &trial.cell.guest);
        guests
            .filter(|guest| guest.is_stand_in() && names.insert(&guest.name))
            .filter_map(|guest| Some((guest, default.image_of(guest).ok()?)))
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
        let used: BTreeSet<&str> = selected.iter().map(|trial| &*trial.cell.qemu).collect();
        for (name, Ready { proven, stock }) in &self.stocks {
            let of = match name.as_str() {
                DEFAULT_QEMU => String::new(),
                name => format!(" {name}"),
            };
            if used.contains(name.as_str()) {
                let program = stock.qemu.program.display();
                put(
                    &format!("qemu{of}"),
                    format!("{} ({program})", stock.facts.version),
                );
                put(&format!("accelerator{of}"), proven.reason.clone());
            }
        }
        put("host_kernel", text(uname.as_ref().map(|u| u.release())));
        put(report::HOST, text(uname.as_ref().map(|u| u.nodename())));
        put("profile", self.settings.profile.clone());
        put("speed", format!("{:.2}", deadline::speed()));
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
pub fn kit_so_far(settings: &Settings, tested: &TestedQemu, guest: &Guest) -> Kit {
    let image = image::built(&settings.images(), guest.kernel_suite());
    let own = image::built(&settings.images(), None);
    let cache = settings.host_cache();
    let proven = own
        .as_ref()
        .and_then(|image| accel::known(&tested.qemu, image, &cache, settings.accel));
    let accel = match (proven, settings.accel) {
        (Some(proven), _) => proven.accel,
        (None, AccelChoice::Kvm) => Accel::Kvm,
        (None, _) => Accel::Tcg,
    };
    stock::kit(image.as_ref(), accel, &tested.facts)
}
