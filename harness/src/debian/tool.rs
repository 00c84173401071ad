//! A tool of the distribution, run to its end.

use crate::base::child::dies_with_parent;
use anyhow::{Context, Result, bail};
use std::process::{Command, Output, Stdio};

/// How many lines of a tool's errors are quoted: apt has one for each package, tar one for each file.
const QUOTED: usize = 3;

/// Runs a tool to its end, and makes of its failure a sentence with what it said.
pub fn run(command: &mut Command) -> Result<Output> {
    run_with(command, Stdio::null())
}

/// As [`run`], with something to read.
pub fn run_with(command: &mut Command, stdin: Stdio) -> Result<Output> {
    let tool = command.get_program().to_string_lossy().into_owned();
    let output = dies_with_parent(command)
        .env("LC_ALL", "C")
        .stdin(stdin)
        .output()
        .with_context(|| format!("cannot start `{tool}` (is it installed?)"))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        // Of apt's lines, those that are errors.
        let (errors, others): (Vec<&str>, Vec<&str>) =
            said.lines().partition(|line| line.starts_with("E: "));
        let lines = if errors.is_empty() { others } else { errors };
        let mut errors = lines[..lines.len().min(QUOTED)].join("; ");
        if lines.len() > QUOTED {
            errors += &format!("; and {} lines more", lines.len() - QUOTED);
        }
        bail!("`{tool}` ended with {}: {errors}", output.status);
    }
    Ok(output)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failing_tool_is_quoted() {
        let error =
            run(Command::new("sh").args(["-c", "echo W: x >&2; echo E: no lists >&2; exit 100"]))
                .unwrap_err()
                .to_string();
        assert_eq!(error, "`sh` ended with exit status: 100: E: no lists");
        let many = "for n in 1 2 3 4 5; do echo E: no $n >&2; done; exit 1";
        let error = run(Command::new("sh").args(["-c", many]))
            .unwrap_err()
            .to_string();
        assert!(error.ends_with("E: no 3; and 2 lines more"), "{error}");
        let error = run(&mut Command::new("/nonexistent/tool"))
            .unwrap_err()
            .to_string();
        assert_eq!(error, "cannot start `/nonexistent/tool` (is it installed?)");
    }
}
