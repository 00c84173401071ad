//! What every testbed of a run is made from: the QEMU under test, the built images, saved guests.

use super::checkpoints::Checkpoints;
use crate::base::error::Skip;
use crate::guest::image::{self, GuestImage};
use crate::host::qemu_facts::QemuFacts;
use crate::matrix::schema::Guest;
use crate::vm::accel::Accel;
use crate::vm::qemu::Qemu;
use crate::vm::standard::Kit;
use crate::vm::start_state::StartState;
use std::collections::BTreeMap;
use std::path::PathBuf;

/// By suite, the built image with its kernel, or why there is none.
pub type SuiteImages = BTreeMap<String, Result<GuestImage, Skip>>;

/// What testbeds are made from. Trials share it.
pub struct Stock {
    /// The QEMU under test.
    pub qemu: Qemu,
    /// What it has.
    pub facts: QemuFacts,
    /// How guest code is run.
    pub accel: Accel,
    /// The built image with the system's own kernel.
    pub image: GuestImage,
    /// The built images with other suites' kernels.
    pub suites: SuiteImages,
    /// Saved guests.
    pub checkpoints: Checkpoints,
    /// The warmest state that a guest may start from where its start is not on trial.
    pub warmest: StartState,
    /// Shows consoles, commands and their output on stderr as they come.
    pub echo: bool,
}

impl Stock {
    /// The built image that stands in for `guest`.
    ///
    /// # Errors
    /// [`Skip`], where the kernel of its suite could not be fetched.
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
    pub fn bootable(&self, guest: &Guest) -> Result<(PathBuf, PathBuf, &'static str), Skip> {
        let image = self.image_of(guest)?;
        let own = |file: &Option<PathBuf>, built: &PathBuf| file.as_ref().unwrap_or(built).clone();
        Ok((
            own(&guest.kernel, &image.bzimage),
            own(&guest.initrd, &image.packed_initrd),
            image::KERNEL_CMDLINE,
        ))
    }

    /// What the VMs of `guest` are made of.
    pub fn kit(&self, guest: &Guest) -> Result<Kit, Skip> {
        let image = self.image_of(guest)?;
        Ok(kit(Some(image), self.accel, &self.facts))
    }
}

/// What image, accelerator and QEMU give every VM; placeholders stand for an image that is not built.
pub fn kit(image: Option<&GuestImage>, accel: Accel, facts: &QemuFacts) -> Kit {
    let (kernel, initrd) = match image {
        Some(image) => (image.kernel().to_owned(), image.initrd.clone()),
        None => ("VMLINUX-OF-THE-IMAGE".into(), "INITRD-OF-THE-IMAGE".into()),
    };
    Kit {
        accel,
        kernel,
        initrd,
        parameters: image::KERNEL_CMDLINE.to_owned(),
        uefi: facts.uefi.clone().unwrap_or_else(|| "OVMF".into()),
        generation_id: facts.has_device("vmgenid"),
    }
}
