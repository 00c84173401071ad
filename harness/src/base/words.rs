//! Words of the user and of a shell: the nearest allowed one, quoting, programs on PATH.

use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// How alike two words must be, of 1, for one to be suggested in place of the other.
const ALIKE: f64 = 0.5;

/// How alike two words are, of 1.
fn likeness(one: &str, other: &str) -> f64 {
    strsim::normalized_damerau_levenshtein(one, other)
}

/// Those of `candidates` that are alike enough to `word` to be worth suggesting, with how alike they
/// are, the likeliest first.
pub fn alike<S: AsRef<str>>(word: &str, candidates: impl IntoIterator<Item = S>) -> Vec<(f64, S)> {
    let mut scored: Vec<(f64, S)> = candidates
        .into_iter()
        .map(|candidate| (likeness(candidate.as_ref(), word), candidate))
        .filter(|(likeness, _)| *likeness >= ALIKE)
        .collect();
    scored.sort_by(|a, b| b.0.total_cmp(&a.0));
    scored
}

/// "unknown KIND `WORD`", the nearest allowed word if one is near, and all that is allowed.
pub fn unknown<'a>(kind: &str, word: &str, allowed: impl IntoIterator<Item = &'a str>) -> String {
    let allowed: Vec<&str> = allowed.into_iter().collect();
    let mut sentence = format!("unknown {kind} `{word}`");
    if let Some((_, nearest)) = alike(word, &allowed).first() {
        sentence += &format!(", did you mean `{nearest}`?");
    }
    match allowed.as_slice() {
        [] => sentence += " (there is none at all)",
        words => sentence += &format!(" (allowed: {})", words.join(", ")),
    }
    sentence
}

/// A word that a shell takes as one, whatever is in it.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// As [`quote`], but as it stands where a shell takes it so.
pub fn quote_where_needed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,.:/+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        quote(word)
    }
}

/// A command line that a shell takes as it stands, an option a line.
pub fn command_line<S: AsRef<OsStr>>(program: &Path, arguments: &[S]) -> String {
    let mut text = quote_where_needed(&program.to_string_lossy());
    for argument in arguments {
        let argument = argument.as_ref().to_string_lossy();
        let starts_option = argument.starts_with('-');
        text += if starts_option { " \\\n  " } else { " " };
        text += &quote_where_needed(&argument);
    }
    text
}

/// Whether `file` can be executed.
pub fn is_program(file: &Path) -> bool {
    file.metadata()
        .is_ok_and(|m| m.is_file() && m.permissions().mode() & 0o111 != 0)
}

/// The program `name` in the first directory of `path` that has it.
pub fn on_path(name: impl AsRef<OsStr>, path: &OsStr) -> Option<PathBuf> {
    std::env::split_paths(path)
        .map(|directory| directory.join(name.as_ref()))
        .find(|file| is_program(file))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_that_a_shell_would_split_are_quoted() {
        let words = ["-append", "a b", "-x", "it's", ""];
        assert_eq!(
            command_line("qemu".as_ref(), &words),
            "qemu \\\n  -append 'a b' \\\n  -x 'it'\\''s' ''"
        );
    }

    #[test]
    fn the_nearest_word_is_suggested_only_where_it_is_near() {
        let allowed = ["auto", "kvm", "tcg"];
        assert_eq!(
            unknown("accelerator", "kmv", allowed),
            "unknown accelerator `kmv`, did you mean `kvm`? (allowed: auto, kvm, tcg)"
        );
        assert_eq!(
            unknown("accelerator", "hvf", []),
            "unknown accelerator `hvf` (there is none at all)"
        );
        assert!(!unknown("accelerator", "zzzzz", allowed).contains("did you mean"));
    }

    #[test]
    fn a_program_is_found_on_the_path_and_a_plain_file_is_not() {
        let found = on_path("sh", OsStr::new("/nowhere:/bin"));
        assert_eq!(found.as_deref(), Some(Path::new("/bin/sh")));
        assert_eq!(on_path("passwd", OsStr::new("/etc")), None);
    }
}
