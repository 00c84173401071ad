//! Words of the user and of a shell: the nearest allowed one, quoting, programs on PATH.

use report::text;
pub use report::words::{alike, unknown};
use std::ffi::OsStr;
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};

/// `word` in quotes, so that a shell takes it as one word.
pub fn quote(word: &str) -> String {
    format!("'{}'", word.replace('\'', r"'\''"))
}

/// As [`quote`], but without quotes where a shell needs none.
pub fn quote_where_needed(word: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "-_=,.:/+@%".contains(c);
    if !word.is_empty() && word.chars().all(plain) {
        word.to_owned()
    } else {
        quote(word)
    }
}

/// How much of what another program said is quoted in a sentence, bytes.
const QUOTED: usize = 200;

/// The beginning of what another program said, as it can be quoted in a sentence: on one line, without control
/// characters.
pub fn quoted_line(said: &[u8]) -> String {
    let start = String::from_utf8_lossy(&said[..said.len().min(QUOTED)]);
    text::one_line(&text::clean(&start))
}

/// A command line for a shell, one option a line.
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

/// A switch as QEMU's command line takes it: `on`, `yes` and `true`, or `off`, `no` and `false`.
pub fn switch(word: &str) -> Option<bool> {
    match word {
        "on" | "yes" | "true" => Some(true),
        "off" | "no" | "false" => Some(false),
        _ => None,
    }
}

/// A whole number as QEMU's command line takes it: decimal, or hexadecimal after `0x`.
pub fn number(word: &str) -> Option<i64> {
    match word.strip_prefix("0x") {
        Some(digits) => i64::from_str_radix(digits, 16).ok(),
        None => word.parse().ok(),
    }
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
    fn switches_and_numbers_are_as_qemu_takes_them() {
        assert_eq!(
            ["on", "no", "auto"].map(switch),
            [Some(true), Some(false), None]
        );
        let numbers = ["0x578", "-1", "05.0"].map(number);
        assert_eq!(numbers, [Some(1400), Some(-1), None]);
    }

    #[test]
    fn a_program_is_found_on_the_path_and_a_plain_file_is_not() {
        let found = on_path("sh", OsStr::new("/nowhere:/bin"));
        assert_eq!(found.as_deref(), Some(Path::new("/bin/sh")));
        assert_eq!(on_path("passwd", OsStr::new("/etc")), None);
    }
}
