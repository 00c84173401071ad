//! Cases × cells → trials, each to run or to skip with a reason. Pure.

use crate::cases::{Case, Fault};
use crate::matrix::Cell;
use std::sync::Arc;

/// What is to be done with a trial.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Action {
    /// Run it.
    Run,
    /// It cannot run here, for this reason.
    Skip(String),
}

/// A case on a cell, perhaps under a fault.
#[derive(Clone)]
pub struct PlannedTrial {
    /// `case::nic::guest::backend`, or `case!fault::nic::guest::backend`.
    pub name: String,
    /// The procedure.
    pub case: &'static Case,
    /// Where it runs.
    pub cell: Arc<Cell>,
    /// Under which breakage.
    pub fault: Option<&'static Fault>,
    /// Run or skip.
    pub action: Action,
}
