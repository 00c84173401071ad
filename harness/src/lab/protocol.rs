//! What the harness outside and the harness inside say to each other, a JSON object a line.

use crate::guest::image::GuestImage;
use crate::host::accel::Proven;
use crate::host::qemu_facts::QemuFacts;
use crate::settings::Settings;
use crate::testbed::checkpoints::{GuestReply, GuestRequest};
use crate::testbed::stock::SuiteImages;
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
        job: Box<Job>,
    },
    /// The answer to [`FromLab::GuestRequested`].
    GuestReplied {
        /// For whom.
        trial: u64,
        /// Or why the checkpoint cannot be made or read.
        reply: Result<GuestReply, String>,
    },
    /// Once a second, and nothing else: a word is an interrupt to the lab's kernel (see [`super::vm`]).
    Alive,
}

/// From inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromLab {
    /// First, once.
    Hello(Hello),
    /// Once a second, for as long as its kernel runs.
    Alive,
    /// A guest is to be started.
    GuestRequested {
        /// By whom.
        trial: u64,
        /// From what, and which.
        request: Box<GuestRequest>,
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
pub struct Hello {
    /// Of its kernel.
    pub release: String,
    /// Why vhost_net cannot be used there.
    pub vhost_obstacle: Option<String>,
    /// vhost_net's `experimental_zcopytx`, as it reads there.
    pub zcopytx: Option<bool>,
}

/// A trial, with all that was found out outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Job {
    /// The trial's full name.
    pub trial: String,
    /// The directory of the run.
    pub run: PathBuf,
    /// The user's settings.
    pub settings: Settings,
    /// Of the QEMU under test.
    pub qemu: QemuFacts,
    /// The built image with the system's own kernel.
    pub image: GuestImage,
    /// Those with others.
    pub suites: SuiteImages,
    /// What VMs run under outside.
    pub proven: Proven,
}
