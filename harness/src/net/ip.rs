//! iproute2, in the calling thread's namespace.

use crate::base::child;
use anyhow::{Context as _, Result};
use serde_json::Value;

const PACKAGE: &str = "iproute2";

/// Runs several `ip` commands in one process (one exec of some 2 ms in place of one each). An
/// error quotes the command that failed.
pub(super) fn batch(commands: &[String]) -> Result<()> {
    let mut command = child::pdeath_command("ip");
    command.args(["-batch", "-"]);
    let result = child::run(&mut command, PACKAGE, &(commands.join("\n") + "\n"));
    result.map(drop).map_err(|error| {
        let failed = failed_line(&error.to_string())
            .and_then(|line| commands.get(line - 1))
            .map_or_else(|| commands.join("; "), Clone::clone);
        error.context(format!("`ip {failed}` failed"))
    })
}

/// Runs one `ip` command.
pub(super) fn run(arguments: &str) -> Result<()> {
    let mut command = child::pdeath_command("ip");
    command.args(arguments.split(' '));
    child::run(&mut command, PACKAGE, "").map(drop)
}

/// Runs one `ip` command that prints objects.
pub(super) fn json(arguments: &str) -> Result<Vec<Value>> {
    let mut command = child::pdeath_command("ip");
    command.arg("-json").args(arguments.split(' '));
    let text = child::run(&mut command, PACKAGE, "")?;
    if text.trim().is_empty() {
        return Ok(Vec::new()); // how older versions print "none"
    }
    serde_json::from_str(&text).with_context(|| format!("`ip -json {arguments}` printed {text:?}"))
}

/// The number in "Command failed -:3".
fn failed_line(error: &str) -> Option<usize> {
    let (_, rest) = error.split_once("Command failed -:")?;
    rest.split(|c: char| !c.is_ascii_digit())
        .next()?
        .parse()
        .ok()
        .filter(|&line| line > 0)
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_failed_line_of_a_batch() {
        let text = "RTNETLINK answers: File exists\nCommand failed -:12";
        assert_eq!(super::failed_line(text), Some(12));
        assert_eq!(super::failed_line("Command failed -:"), None);
        assert_eq!(super::failed_line("Cannot find device"), None);
    }
}
