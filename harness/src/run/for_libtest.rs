//! What libtest and nextest show of a trial that has ended.

use crate::settings::Settings;
use libtest_mimic::{Completion, Failed};
use report::events::{Outcome, TrialEnded};
use report::{Trial, errln, out, text};

/// Its end in libtest's words: a skip and a known failure are ignored there.
///
/// # Errors
/// What it failed of, or why it could not run.
pub(super) fn shown(trial: &Trial, settings: &Settings) -> Result<Completion, Failed> {
    let ended = &trial.end;
    let text = match &ended.outcome {
        Outcome::Passed => return Ok(Completion::Completed),
        Outcome::Flaky { .. } if settings.flaky_fails => trial.message(),
        Outcome::Flaky { failures } => {
            let failures = text::one_line(&failures.join("; "));
            errln!("{} is flaky: {failures}", ended.trial);
            return Ok(Completion::Completed);
        }
        // nextest reads the exit code alone, and shows what is printed.
        Outcome::Known {
            message, reason, ..
        } => {
            if settings.nextest {
                let message = text::one_line(message);
                errln!("{} is known to fail ({reason}): {message}", ended.trial);
            }
            let reason = text::one_line(&out::plain(reason));
            return Ok(Completion::ignored_with(format!("known to fail: {reason}")));
        }
        Outcome::Skipped { reason } => {
            return Ok(Completion::ignored_with(text::one_line(&out::plain(
                reason,
            ))));
        }
        Outcome::Failed { message } => message.clone(),
        Outcome::Broken { message } => format!("the harness could not run it: {message}"),
        Outcome::Interrupted => "interrupted".into(),
    };
    let text = failure(&text, ended);
    if settings.nextest {
        errln!("Error: {text}");
    }
    // libtest prints it as it is.
    Err(text.into())
}

/// A trial that did not pass. What follows the message's first line stands behind a mark, as others said it: a guest,
/// QEMU, a tool.
fn failure(message: &str, ended: &TrialEnded) -> String {
    const MARK: &str = "  | ";
    let message = text::clean(message);
    let (first, rest) = message.split_once('\n').unwrap_or((&message, ""));
    let mut shown = first.to_owned();
    if !rest.trim().is_empty() {
        shown += "\n";
        shown += &text::prefixed(MARK, rest);
    }
    let [artifacts, again] = [&ended.artifacts, &ended.reproduce].map(|line| text::one_line(line));
    shown += &format!("\n  artifacts: {artifacts}\n  again: {again}");
    if !ended.serial_tail.is_empty() {
        shown += "\n  the serial console ends with:\n";
        shown += &text::prefixed(MARK, &ended.serial_tail);
    }
    out::plain(&shown)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_guest_says_reaches_no_pipeline_and_no_terminal() {
        let ended = TrialEnded {
            serial_tail: "::error::owned\r\n\u{1b}]0;title\u{7}##[group]x\n".into(),
            artifacts: "runs/a".into(),
            reproduce: "again".into(),
            ..TrialEnded::unmeasured("a".into(), Outcome::Passed)
        };
        let said = "2 of 3 replies: \u{1b}[2Jit said\n::stop-commands::x\r::error::y";
        insta::assert_snapshot!(failure(said, &ended), @r"
        2 of 3 replies: it said
          | ::stop-commands::x
          | ::error::y
          artifacts: runs/a
          again: again
          the serial console ends with:
          | ::error::owned
          | ## [group]x
        ");
        assert_eq!(
            failure("::error::a", &ended).lines().next(),
            Some(": :error::a")
        );
    }
}
