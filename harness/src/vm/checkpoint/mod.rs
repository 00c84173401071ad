//! Checkpoints: a booted guest's saved state, restored in place of a boot.
//!
//! # What is saved
//! The guest is booted once with its memory in a file that QEMU shares with it
//! (`memory-backend-file,share=on`), and migrated with the capability `x-ignore-shared`: the stream
//! then carries the devices alone (0.3-0.6 MB), and the file is the memory. A trial's QEMU is
//! started with the same command line, the same file mapped `share=off` (what the guest writes is
//! that QEMU's own, the file stays as it is, and its pages are shared by all guests restored from
//! it) and `-incoming defer`; the stream comes over an inherited socket, which every QEMU takes
//! (`fd:` of a file is refused from 11.1 on, `file:` is not there before 8.2). The guest answers
//! some 70 ms after exec. Where a QEMU does not take `x-ignore-shared`, all of the memory goes
//! through the stream ([`Mode::Streamed`], 0.15 s), and where it restores neither way, trials boot,
//! and each says so. What QEMU can do is found out when the checkpoint is made: it is restored once,
//! and kept only if the guest answers.
//!
//! # From which state
//! Each case says what it starts from ([`crate::vm::start_state::StartState`]). *Warm NIC*: saved with
//! the NIC up and addressed; the tap behind it is another, which no guest notices. *Cold driver*: saved
//! without a NIC; the NIC is on the restoring QEMU's command line, and the guest rescans its PCI
//! bus, so that probe, negotiation and driver load all happen in the trial. *Boot*: not restored. A
//! trial whose VM differs from what was saved (a fault with another kernel parameter, or
//! another NIC model) takes the next colder state that fits; so does one whose checkpoint cannot be
//! made. A guest of a disk image boots: what it wrote to its disk would not be saved.
//!
//! # Two guests restored from one checkpoint
//! They would have the same clock, the same random numbers and the same MAC. The clock is set by the
//! agent before the case starts (`guest-set-time`). QEMU's VM generation id (`vmgenid`) is new in
//! each, upon which Linux reseeds its random numbers (5.18 and later); older kernels mix the
//! processor's RDRAND into each number. MACs belong to a NIC's place in its cell, so that guests of
//! one trial have different checkpoints. DHCP clients name themselves by MAC, and the built image
//! has no machine-id. QEMU announces a restored NIC once, at once (`announce-rounds` 1), before the
//! first ping and so before the case.
//!
//! # On disk
//! `target/nicmatrix/checkpoints/KEY/`, with `manifest.json`, `state`, `ram`, and the transcript of
//! its making. The key is a digest of everything that the saved guest depends on ([`key`]). A
//! checkpoint is made and used under `KEY.lock` (by flock, which no kill leaves behind), made in
//! `.build-KEY` and renamed when whole. Before each use its files must have the size, inode and
//! times that they were made with, or else the same SHA-256; if not, a line says so and the
//! checkpoint is made again. Their total size is bounded: the longest unused are removed first.
//! `cargo xtask cache` lists and clears them.

pub mod copy;
pub mod key;
pub mod store;

use nix::fcntl::Flock;
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::path::{Path, PathBuf};

/// How a checkpoint is restored.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Mode {
    /// Memory mapped from its file, devices from the stream.
    Mapped,
    /// Everything from the stream.
    Streamed,
}

impl Mode {
    /// The names of the files that make up a checkpoint.
    pub fn files(self) -> &'static [&'static str] {
        match self {
            Mode::Mapped => &[store::STATE, store::RAM],
            Mode::Streamed => &[store::STATE],
        }
    }
}

/// A checkpoint that is whole, and stays while this is held.
pub struct Checkpoint {
    directory: PathBuf,
    /// How it is restored.
    pub mode: Mode,
    _lock: Option<Flock<File>>,
}

impl Checkpoint {
    /// One that is being made, by the holder of its lock.
    pub fn unlocked(directory: PathBuf, mode: Mode) -> Checkpoint {
        Checkpoint {
            directory,
            mode,
            _lock: None,
        }
    }

    /// Where it is.
    pub fn directory(&self) -> &Path {
        &self.directory
    }

    /// The migration stream.
    pub fn state(&self) -> PathBuf {
        self.directory.join(store::STATE)
    }

    /// The guest's memory, where it is apart.
    pub fn ram(&self) -> PathBuf {
        self.directory.join(store::RAM)
    }
}
