//! What the harness outside and the harness inside say to each other, a JSON object a line.

use crate::cases::Start;
use crate::guest::image::GuestImage;
use crate::host::HostFacts;
use crate::host::accel::Proven;
use crate::run::context::SuiteImages;
use crate::run::settings::Settings;
use crate::testbed::checkpoints::Saved;
use crate::vm::checkpoint::Mode;
use crate::vm::cmdline::VmSpec;
use report::events::TrialEnded;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;

/// From outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToLab {
    /// Run a trial.
    Run {
        /// By which it is named from now on.
        trial: u64,
        /// What it is.
        work: Box<Work>,
    },
    /// The answer to [`FromLab::Wanted`].
    Granted {
        /// For whom.
        trial: u64,
        /// Or why the checkpoint cannot be made or read.
        grant: Result<Grant, String>,
    },
    /// Once a second, and nothing else: a word is an interrupt to the lab's kernel (see [`super::vm`]).
    Alive,
}

/// From inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromLab {
    /// First, once.
    Up(Up),
    /// Once a second, for as long as its kernel runs.
    Alive,
    /// A guest is to be started.
    Wanted {
        /// By whom.
        trial: u64,
        /// From what, and which.
        want: Box<Want>,
    },
    /// A trial has ended.
    Ended {
        /// Which.
        trial: u64,
        /// How.
        ended: Box<TrialEnded>,
    },
}

/// A lab that is there.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Up {
    /// Of its kernel.
    pub release: String,
    /// Why vhost_net cannot be used there.
    pub vhost_obstacle: Option<String>,
    /// vhost_net's `experimental_zcopytx`, as it reads there.
    pub zcopytx: Option<bool>,
}

/// A trial, with all that was found out outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Work {
    /// The trial's full name.
    pub trial: String,
    /// The directory of the run.
    pub run: PathBuf,
    /// The user's settings.
    pub settings: Settings,
    /// Of the QEMU under test.
    pub facts: HostFacts,
    /// The built image with the system's own kernel.
    pub image: GuestImage,
    /// Those with others.
    pub suites: SuiteImages,
    /// What VMs run under outside.
    pub proven: Proven,
}

/// A guest that is to be started.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Want {
    /// The state that its case asks for.
    pub start: Start,
    /// The VM.
    pub spec: VmSpec,
    /// The VM as it would be without the trial's fault.
    pub plain: VmSpec,
}

/// What a guest is started from.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Grant {
    /// A checkpoint's directory, how it is restored, and the state that was saved; none for a boot.
    pub checkpoint: Option<(PathBuf, Mode, Saved)>,
    /// Why it is no warmer one.
    pub notes: Vec<String>,
}
