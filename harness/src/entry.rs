//! What this process is: a run, the harness inside a lab, or the keeper of vhost_net.
//!
//! The harness starts itself for the latter two, whichever of its programs it is: `nicmatrix`, or the test
//! binary `matrix`. It tells itself so with the first argument, before libtest or clap read any.

use crate::base::error::{CannotRun, find};
use crate::base::panics;
use crate::host::{machine, module};
use crate::inside;
use crate::lab;
use report::errln;
use std::process::ExitCode;

/// Runs the hidden subcommand that the arguments begin with, or else `run`, which reads them itself.
pub fn main(run: impl FnOnce() -> anyhow::Result<ExitCode>) -> ExitCode {
    panics::tell();
    machine::raise_descriptors();
    // An argument that is not UTF-8 is no word of ours.
    let arguments = std::env::args_os().skip(1);
    let arguments: Vec<String> = arguments
        .map(|argument| argument.to_string_lossy().into_owned())
        .collect();
    exit(match Role::of(&arguments) {
        Role::Run => run(),
        Role::Inside => inside::serve().map(|()| ExitCode::SUCCESS),
        Role::Keeper(rest) => module::keep(rest).map(|()| ExitCode::SUCCESS),
    })
}

#[derive(Debug, PartialEq, Eq)]
enum Role<'a> {
    Run,
    Inside,
    Keeper(&'a [String]),
}

impl Role<'_> {
    fn of(arguments: &[String]) -> Role<'_> {
        match arguments.split_first() {
            Some((first, _)) if first == lab::INSIDE => Role::Inside,
            Some((first, rest)) if first == module::KEEPER => Role::Keeper(rest),
            _ => Role::Run,
        }
    }
}

/// Reports an error that ended the harness, and chooses the exit code.
fn exit(result: anyhow::Result<ExitCode>) -> ExitCode {
    result.unwrap_or_else(|error| {
        // nextest takes a line that starts so as the failure's message.
        errln!("Error: {error:#}");
        let cannot_run = find::<CannotRun>(&error).is_some();
        ExitCode::from(if cannot_run { 3 } else { 2 })
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::matrix::load;

    fn role(words: &[&str]) -> Role<'static> {
        let words: Vec<String> = words.iter().map(|word| (*word).to_owned()).collect();
        Role::of(words.leak())
    }

    #[test]
    fn the_hidden_words_count_as_the_first_argument_alone() {
        assert_eq!(role(&[lab::INSIDE]), Role::Inside);
        let module = ["{}".to_owned()];
        assert_eq!(role(&[module::KEEPER, "{}"]), Role::Keeper(&module));
        assert_eq!(role(&[]), Role::Run);
        for hidden in [lab::INSIDE, module::KEEPER] {
            assert_eq!(role(&["run", hidden]), Role::Run);
            assert_eq!(role(&["--exact", hidden]), Role::Run);
            assert_eq!(role(&["--skip", hidden]), Role::Run);
            assert_eq!(role(&[&hidden[..hidden.len() - 1]]), Role::Run);
        }
    }

    /// What a filter can match is a part of a trial's name, and the matrix file refuses a part of a name
    /// that holds one of the hidden words.
    #[test]
    fn no_filter_that_matches_anything_is_a_hidden_word() {
        let directory = tempfile::tempdir().unwrap();
        let file = directory.path().join("matrix.toml");
        let shipped = include_str!("../../matrix.toml");
        for hidden in [lab::INSIDE, module::KEEPER] {
            let text = format!("{shipped}\n[nics.\"{hidden}\"]\ndevice = \"e1000\"\n");
            std::fs::write(&file, text).unwrap();
            let error = load::load(&file, &[]).unwrap_err().to_string();
            let refused = format!("[nics.{hidden}]: the name becomes part of a trial's name");
            assert!(error.contains(&refused), "{error}");
            let separators = ["::", "!", "@"];
            assert!(
                separators
                    .iter()
                    .all(|separator| !hidden.contains(separator))
            );
        }
    }
}
