//! Output for people, on stdout and stderr. Where it is closed (`| head`) or the disk is full, the
//! program goes on, with the same exit code: what cannot be written is left out. The standard macros
//! would panic.

use std::fs;
use std::io::Write;
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

/// Writes `text`, as far as `to` takes it.
pub fn write(mut to: impl Write, text: impl AsRef<[u8]>) {
    // An error could not be reported either.
    let _ = to.write_all(text.as_ref()).and_then(|()| to.flush());
}

/// Prints `text` on stdout as it is: data for a program.
pub fn text(text: &str) {
    write(std::io::stdout(), text);
}

/// Prints JSON on stdout, in which nothing is a command to a pipeline: GitHub finds `##[` anywhere in a line.
pub fn json(text: &str) {
    write(std::io::stdout(), without_commands(text));
}

/// The same JSON: a mark can only be in a string, and there its second character may be written by its code.
fn without_commands(json: &str) -> String {
    json.replace("##[", "#\\u0023[")
}

use crate::text::clean;
pub use crate::text::no_commands;

/// Prints `text` for people on stdout: what guests and tools said in it is no command to a pipeline. What it has of
/// colours is shown, so what others said must have been cleaned.
pub fn shown(text: &str) {
    write(std::io::stdout(), no_commands(text).as_ref());
}

/// `text` for people, in which nothing is a command to a pipeline or to a terminal, whoever said it.
pub fn plain(text: &str) -> String {
    no_commands(&clean(text)).into_owned()
}

/// Puts a file with `text` at `path`, its directory too: at once, so that nobody reads half of it, and
/// readable for everybody, as other users' CI agents collect it.
pub(crate) fn replace_file(path: &Path, text: &str) -> std::io::Result<()> {
    // A rename would put a plain file in the place of a device: of /dev/null, as root.
    if fs::metadata(path).is_ok_and(|there| !there.is_file()) {
        return fs::write(path, text);
    }
    let dir = match path.parent() {
        Some(dir) if !dir.as_os_str().is_empty() => dir,
        _ => Path::new("."),
    };
    fs::create_dir_all(dir)?;
    let file = tempfile::NamedTempFile::new_in(dir)?;
    fs::write(file.path(), text)?;
    fs::set_permissions(file.path(), PermissionsExt::from_mode(0o644))?;
    file.persist(path)?;
    Ok(())
}

/// `println!` that never panics, and in which nothing is a command to a pipeline or a terminal.
#[macro_export]
macro_rules! outln {
    ($($arguments:tt)*) => {
        $crate::out::write(
            ::std::io::stdout(),
            $crate::out::plain(&(::std::format!($($arguments)*) + "\n")),
        )
    };
}

/// `eprint!` that never panics, and in which nothing is a command to a pipeline or a terminal.
#[macro_export]
macro_rules! err {
    ($($arguments:tt)*) => {
        $crate::out::write(
            ::std::io::stderr(),
            $crate::out::plain(&::std::format!($($arguments)*)),
        )
    };
}

/// `eprintln!` that never panics, and in which nothing is a command to a pipeline or a terminal.
#[macro_export]
macro_rules! errln {
    ($($arguments:tt)*) => {
        $crate::err!("{}\n", ::std::format_args!($($arguments)*))
    };
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::fs::File;

    #[test]
    fn a_line_is_one_write() {
        struct Writes(Vec<String>);
        impl Write for &mut Writes {
            fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
                self.0.push(String::from_utf8_lossy(bytes).into_owned());
                Ok(bytes.len())
            }
            fn flush(&mut self) -> std::io::Result<()> {
                Ok(())
            }
        }
        let mut writes = Writes(Vec::new());
        write(&mut writes, "one\ntwo\n");
        assert_eq!(writes.0, ["one\ntwo\n"]);
    }

    #[test]
    fn what_anybody_said_is_plain() {
        assert_eq!(
            plain("a\u{1b}]0;title\u{7}b\r::error::c\n\td\u{1b}[31m\n"),
            "ab\n: :error::c\n\td\n"
        );
    }

    #[test]
    fn json_stays_the_same_without_commands() {
        let said = serde_json::json!({ "message": "###[error]x ##[group]" });
        let shown = without_commands(&said.to_string());
        assert!(!shown.contains("##["), "{shown}");
        let read: serde_json::Value = serde_json::from_str(&shown).unwrap();
        assert_eq!(read, said);
    }

    #[test]
    fn what_cannot_be_written_is_left_out() {
        write(File::create("/dev/full").unwrap(), "lost");
        let (reader, writer) = std::io::pipe().unwrap();
        drop(reader);
        write(writer, "lost");
    }
}
