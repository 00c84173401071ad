//! Everything the user can set, from `NICMATRIX_*` variables: libtest's arguments are fixed, so
//! `cargo xtask` passes its flags this way, and `cargo test` and nextest users set them directly.

use std::path::{Path, PathBuf};

/// `--accel`
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum AccelChoice {
    /// KVM where it is shown to work, else TCG.
    Auto,
    /// KVM or nothing.
    Kvm,
    /// TCG even where KVM works.
    Tcg,
}

/// The user's settings.
#[derive(Debug, Clone)]
pub struct Settings {
    /// Root of the workspace.
    pub root: PathBuf,
    /// `NICMATRIX_MATRIX`: the matrix file.
    pub matrix: PathBuf,
    /// `NICMATRIX_PROFILE`: `smoke`, `full`, `soak` or another of the file.
    pub profile: String,
    /// `NICMATRIX_QEMU`: the QEMU under test.
    pub qemu: PathBuf,
    /// `NICMATRIX_FIRMWARE`: QEMU's `-L` directories, separated by `:`.
    pub firmware: Vec<PathBuf>,
    /// `NICMATRIX_ACCEL`: `auto`, `kvm` or `tcg`.
    pub accel: AccelChoice,
    /// `NICMATRIX_RETRIES`: further tries of a trial that failed.
    pub retries: u32,
    /// `NICMATRIX_SHARD`: `K/N`, the K-th (from 1) of N equal parts of the plan.
    pub shard: Option<(u32, u32)>,
    /// `NICMATRIX_FAULTS=1`: every case under each of its faults.
    pub faults: bool,
    /// `NICMATRIX_JUNIT`: where the JUnit file goes.
    pub junit: Option<PathBuf>,
    /// `NICMATRIX_DIR`: images, caches and artifacts; `target/nicmatrix` by default.
    pub dir: PathBuf,
}

impl Settings {
    /// Where built images are kept.
    pub fn images(&self) -> PathBuf {
        self.dir.join("images")
    }
    /// Where what was learned of the host is kept.
    pub fn host_cache(&self) -> PathBuf {
        self.dir.join("host")
    }
    /// Where runs leave their artifacts.
    pub fn runs(&self) -> PathBuf {
        self.dir.join("runs")
    }
    /// A path as the user gave it, taken from the workspace's root.
    pub fn from_root(&self, path: &Path) -> PathBuf {
        self.root.join(path)
    }
}
