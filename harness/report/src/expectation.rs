//! What the matrix file knows to fail, and what became of it in a trial.

use crate::text::clean;
use crate::{Results, Trial};
use serde::{Deserialize, Serialize};

/// An expectation of the matrix file that applied to a trial.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
pub struct Expectation {
    /// What became of it.
    pub state: State,
    /// The words that the failure must contain.
    pub message: String,
    /// Why the trial fails.
    pub reason: String,
    /// Where there is more about it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub link: Option<String>,
    /// Whether the failure comes only now and then.
    #[serde(default)]
    pub sometimes: bool,
    /// The date from which on it is due for another look, as "2027-03-31".
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub until: Option<String>,
    /// Whether that date had come when the trial ended.
    #[serde(default)]
    pub due: bool,
}

/// What became of an expectation.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[cfg_attr(test, derive(schemars::JsonSchema))]
#[serde(rename_all = "snake_case")]
pub enum State {
    /// The trial failed as expected.
    Met,
    /// The trial failed with other words.
    OtherWords,
    /// The trial passed, though a failure was expected each time.
    Fixed,
    /// The trial passed; the failure comes only now and then.
    NotNow,
}

impl Expectation {
    /// The same with every string clean.
    pub(crate) fn cleaned(&self) -> Expectation {
        Expectation {
            message: clean(&self.message),
            reason: clean(&self.reason),
            link: self.link.as_deref().map(clean),
            until: self.until.as_deref().map(clean),
            ..*self
        }
    }

    /// Which failure was expected in place of the one that came, where that is so.
    pub(crate) fn other_words(&self) -> Option<String> {
        (self.state == State::OtherWords).then(|| {
            format!(
                "another failure, which says {:?}: {}",
                self.message, self.reason
            )
        })
    }

    /// "due for another look since DATE", where it is.
    pub(crate) fn due(&self) -> Option<String> {
        let since = self.until.as_deref().filter(|_| self.due)?;
        Some(format!("due for another look since {since}"))
    }
}

/// An expectation with the trials in which the same became of it.
pub(crate) struct Entry<'r> {
    pub(crate) expectation: &'r Expectation,
    pub(crate) trials: Vec<&'r Trial>,
}

/// The expectations of which `state` became, each with its trials, in the plan's order.
pub(crate) fn entries(results: &Results, state: State) -> Vec<Entry<'_>> {
    let mut entries: Vec<Entry> = Vec::new();
    for trial in &results.trials {
        let Some(expectation) = &trial.end.expectation else {
            continue;
        };
        if expectation.state != state {
            continue;
        }
        let same = |entry: &&mut Entry| {
            let one = entry.expectation;
            (&one.reason, &one.link, one.due)
                == (&expectation.reason, &expectation.link, expectation.due)
        };
        match entries.iter_mut().find(same) {
            Some(entry) => entry.trials.push(trial),
            None => entries.push(Entry {
                expectation,
                trials: vec![trial],
            }),
        }
    }
    entries
}
