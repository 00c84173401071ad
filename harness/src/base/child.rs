//! Child processes that cannot outlive the harness.

use super::deadline::Limit;
use super::error::CannotRun;
use super::{output, words};
use anyhow::{Context as _, Result, bail};
use nix::errno::Errno;
use nix::sys::prctl;
use nix::sys::signal::Signal;
use std::ffi::{OsStr, OsString};
use std::io::ErrorKind;
use std::os::unix::process::CommandExt as _;
use std::path::Path;
use std::process::{Command, Stdio};

/// A tool of the host that changes or tells something at once: `ip`, `nft`, `modprobe`. A module's first load
/// from a cold disk takes seconds.
const TOOL: Limit = Limit {
    what: "a tool of the host to end",
    seconds: 60.0,
};

/// A command whose process is killed when the thread that spawned it ends, however it ends. Spawn
/// it on the trial's own thread: it then also lives in the trial's network namespace.
///
/// The program is looked for in `PATH` and then in the sbin directories, which an ordinary user's
/// `PATH` lacks on Debian. Output is in the C locale.
pub fn pdeath_command(program: impl AsRef<OsStr>) -> Command {
    let mut command = Command::new(locate(program.as_ref()));
    // As typed: many programs begin their messages with it.
    command.arg0(program.as_ref()).env("LC_ALL", "C");
    dies_with_parent(&mut command);
    command
}

/// Has the kernel kill `command`'s process when the thread that spawned it ends.
pub fn dies_with_parent(command: &mut Command) -> &mut Command {
    let parent = nix::unistd::getpid();
    // SAFETY: prctl and getppid are async-signal-safe system calls, and nothing is allocated.
    unsafe {
        command.pre_exec(move || {
            prctl::set_pdeathsig(Signal::SIGKILL)?;
            // The parent may have died before the line above, and then no signal comes.
            if nix::unistd::getppid() == parent {
                Ok(())
            } else {
                Err(Errno::ESRCH.into())
            }
        });
    }
    command
}

fn locate(program: &OsStr) -> OsString {
    if program.as_encoded_bytes().contains(&b'/') {
        return program.into();
    }
    let path = std::env::var_os("PATH").unwrap_or_default();
    words::on_path(program, &path)
        .or_else(|| words::on_path(program, OsStr::new("/usr/sbin:/sbin")))
        .map_or_else(|| program.into(), Into::into)
}

/// A command as a user would type it, for messages.
pub fn command_line(command: &Command) -> String {
    let program = Path::new(command.get_program());
    let name = program.file_name().unwrap_or(program.as_os_str());
    std::iter::once(name)
        .chain(command.get_args())
        .map(|word| words::quote_where_needed(&word.to_string_lossy()))
        .collect::<Vec<_>>()
        .join(" ")
}

/// What to say when `command` did not start, a [`CannotRun`]; `package` is where its program comes from.
pub fn spawn_error(command: &Command, package: &str, error: std::io::Error) -> anyhow::Error {
    let line = command_line(command);
    if error.kind() == ErrorKind::NotFound {
        let program = line.split(' ').next().unwrap_or_default();
        CannotRun(format!(
            "`{program}` is not installed: install the package {package}"
        ))
        .into()
    } else {
        anyhow::Error::new(error).context(CannotRun(format!("cannot start `{line}`")))
    }
}

/// Runs `command` with `input` on its standard input, to its end; its standard output, or an error
/// with what it said on standard error. For commands that end at once.
///
/// # Errors
/// A command that fails, that does not start, or that does not end in time.
pub fn run(command: &mut Command, package: &str, input: &str) -> Result<String> {
    use std::io::Write as _;
    let mut child = command
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .map_err(|e| spawn_error(command, package, e))?;
    if let Some(mut stdin) = child.stdin.take() {
        // A program that ends early says why itself.
        match stdin.write_all(input.as_bytes()) {
            Err(e) if e.kind() != ErrorKind::BrokenPipe => {
                return Err(e)
                    .with_context(|| format!("cannot write to `{}`", command_line(command)));
            }
            _ => {}
        }
    }
    let output = output::of(child, TOOL).with_context(|| format!("`{}`", command_line(command)))?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        bail!(
            "`{}` failed ({}): {}",
            command_line(command),
            output.status,
            said.trim()
        );
    }
    Ok(String::from_utf8_lossy(&output.stdout).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failed_command_says_what_it_said() {
        let mut command = pdeath_command("sh");
        command.args(["-c", "read line; echo \"no $line\" >&2; exit 3"]);
        let error = run(&mut command, "dash", "luck\n").unwrap_err().to_string();
        assert_eq!(
            error,
            r#"`sh -c 'read line; echo "no $line" >&2; exit 3'` failed (exit status: 3): no luck"#
        );
    }

    #[test]
    fn a_missing_program_names_its_package() {
        let error = run(&mut pdeath_command("no-such-program"), "nonesuch", "").unwrap_err();
        assert_eq!(
            error.to_string(),
            "`no-such-program` is not installed: install the package nonesuch"
        );
    }

    #[test]
    fn a_child_dies_with_the_thread_that_spawned_it() {
        let mut child = std::thread::spawn(|| pdeath_command("sleep").arg("60").spawn().unwrap())
            .join()
            .unwrap();
        use std::os::unix::process::ExitStatusExt as _;
        assert_eq!(child.wait().unwrap().signal(), Some(Signal::SIGKILL as i32));
    }
}
