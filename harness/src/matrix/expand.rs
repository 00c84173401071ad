//! Axes → cells. A senseless cell never exists: vhost on anything but virtio or on a variant of it
//! that vhost cannot carry, zcopy without vhost, an IOMMU on a machine that has none.

use super::schema::{Guest, Machine, Matrix, MatrixError, Nic, Variant};
use super::{Backend, Cell};
use std::path::Path;

impl Matrix {
    /// The cells, in the order of the axes.
    pub fn cells(&self) -> impl Iterator<Item = Cell> {
        let qemus = self.axes.qemu.iter();
        let points = qemus.flat_map(|qemu| self.points().map(move |point| (qemu, point)));
        points.map(|(qemu, (nic, guest, backend))| Cell {
            qemu: qemu.clone(),
            nic: on_guest(nic, guest),
            guest: guest.clone(),
            backend,
        })
    }

    /// The NICs on the axis that differ from their devices, and not by their taps alone, each with the machines of its
    /// guests.
    pub fn variants(&self) -> Vec<(&Nic, Machine)> {
        let mut variants: Vec<(&Nic, Machine)> = Vec::new();
        for (nic, guest, _) in self.points() {
            let known = |(one, machine): &(&Nic, Machine)| {
                one.name == nic.name && *machine == guest.machine
            };
            let plain = Variant {
                bare_tap: nic.variant.bare_tap,
                ..Variant::default()
            };
            if nic.variant != plain && !variants.iter().any(known) {
                variants.push((nic, guest.machine));
            }
        }
        variants
    }

    /// What [`Matrix::cells`] are made of on each QEMU.
    pub(super) fn points(&self) -> impl Iterator<Item = (&Nic, &Guest, Backend)> {
        let axes = &self.axes;
        let backends: Vec<Backend> = axes
            .vhost
            .iter()
            .flat_map(|vhost| axes.zcopy.iter().map(move |zcopy| (*vhost, *zcopy)))
            .filter_map(|(vhost, zcopy)| match (vhost, zcopy) {
                (false, false) => Some(Backend::Tap),
                (true, false) => Some(Backend::Vhost),
                (true, true) => Some(Backend::VhostZcopy),
                (false, true) => None,
            })
            .collect();
        let guests = move || axes.guest.iter().filter_map(|name| self.guests.get(name));
        axes.nic
            .iter()
            .filter_map(|name| self.nics.get(name))
            .flat_map(move |nic| guests().map(move |guest| (nic, guest)))
            .filter(|(nic, guest)| !nic.variant.iommu || guest.machine == Machine::Q35)
            .flat_map(move |(nic, guest)| {
                backends
                    .clone()
                    .into_iter()
                    .filter(|backend| nic.takes_vhost() || *backend == Backend::Tap)
                    .map(move |backend| (nic, guest, backend))
            })
    }

    /// Takes guests' disk images from `NICMATRIX_IMAGE_<GUEST>` (upper case, `-` as `_`), in place
    /// of the file's; relative ones from `root`.
    pub fn use_images(
        &mut self,
        root: &Path,
        get: impl Fn(&str) -> Option<String>,
    ) -> Result<(), MatrixError> {
        let mut mistakes = Vec::new();
        for guest in self.guests.values_mut() {
            let upper = guest.name.to_ascii_uppercase().replace('-', "_");
            let variable = format!("NICMATRIX_IMAGE_{upper}");
            let Some(value) = get(&variable).filter(|v| !v.is_empty()) else {
                continue;
            };
            let image = root.join(value);
            if !image.is_file() {
                mistakes.push(format!("{variable}: there is no file {}", image.display()));
            }
            guest.image = Some(image);
        }
        match mistakes.is_empty() {
            true => Ok(()),
            false => Err(MatrixError(mistakes)),
        }
    }
}

fn on_guest(nic: &Nic, guest: &Guest) -> Nic {
    let mut nic = nic.clone();
    if let Some(differs) = guest.nics.get(&nic.name) {
        if let Some(driver) = &differs.driver {
            nic.driver = driver.clone();
        }
        if let Some(max_mtu) = differs.max_mtu {
            nic.max_mtu = max_mtu;
        }
        if let Some(offloads) = &differs.offloads {
            nic.offloads = offloads.clone();
        }
        nic.interrupts = differs.interrupts.or(nic.interrupts);
    }
    nic
}
