//! What the harness outside and the harness inside say to each other, a JSON object a line.

use crate::guest::image::GuestImage;
use crate::host::accel::Proven;
use crate::host::qemus::Qemus;
use crate::settings::Settings;
use crate::testbed::checkpoints::GuestReply;
use crate::testbed::exchange::{Kept, Offer};
use crate::testbed::stock::SuiteImages;
use report::events::TrialEnded;
use serde::{Deserialize, Serialize};
use std::path::PathBuf;
use std::time::Duration;

/// From outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum ToLab {
    /// Run a trial.
    Run {
        /// The number by which later messages name the trial.
        trial: u64,
        /// The trial.
        job: Box<Job>,
    },
    /// The answer to [`FromLab::Asked`].
    Answered {
        /// The trial that asked.
        trial: u64,
        /// The answer, or why there is none.
        answer: Result<Answer, String>,
    },
    /// Sent once a second, for the interrupt that it is to the lab's kernel (see [`super::vm`]).
    Alive {
        /// How long the lab's QEMU has been kept from running so far; no lab can see that itself.
        delay: Duration,
    },
}

/// From inside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum FromLab {
    /// The first message, sent once.
    Hello(Hello),
    /// Sent once a second, for as long as the lab's kernel runs.
    Alive,
    /// A trial asks the harness outside, and waits for [`ToLab::Answered`].
    Asked {
        /// The trial.
        trial: u64,
        /// What it asks.
        question: Question,
    },
    /// A trial has ended.
    Ended {
        /// The trial.
        trial: u64,
        /// How it ended.
        ended: Box<TrialEnded>,
    },
}

/// What a trial asks the harness outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Question {
    /// What the trial's guest under TCG with its first NIC in that place is started from.
    Guest(u8),
    /// Whether a checkpoint is kept that an earlier lab has made: its key inside.
    Kept(String),
    /// To keep a checkpoint that was made.
    Take(Offer),
    /// To remember that KVM works inside.
    Remember(Proven),
}

/// The answer of the harness outside.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub enum Answer {
    /// To [`Question::Guest`].
    Guest(GuestReply),
    /// To [`Question::Kept`]; it stays until the trial ends.
    Kept(Option<Kept>),
    /// To [`Question::Take`] and [`Question::Remember`].
    Done,
}

/// What a lab says of its kernel.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Hello {
    /// The kernel's release.
    pub release: String,
    /// Why vhost_net cannot be used there, where it cannot.
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
    /// The QEMUs of the run.
    pub qemus: Qemus,
    /// The built image with the system's own kernel.
    pub image: GuestImage,
    /// The built images with other suites' kernels.
    pub suites: SuiteImages,
    /// What the VMs of the trial's QEMU run under outside.
    pub proven: Proven,
    /// What they were seen to run under in an earlier lab like this one, where one was.
    pub proven_inside: Option<Proven>,
}
