//! Who is not root makes a network of his own, or is told what is in the way.

use anyhow::{Context as _, Result, ensure};
use harness::base::error::Skip;
use std::io::{BufRead as _, BufReader, Write as _};
use std::os::unix::fs::PermissionsExt;
use std::os::unix::process::CommandExt as _;
use std::path::PathBuf;
use std::process::{Command, Stdio};

const NOBODY: u32 = 65534;

/// This program, where an ordinary user can run it: the build directory may be closed to others.
fn copy_for_all() -> Result<(tempfile::TempDir, PathBuf)> {
    let directory = tempfile::Builder::new()
        .permissions(PermissionsExt::from_mode(0o755))
        .tempdir()?;
    let copy = directory.path().join("network");
    std::fs::copy(std::env::current_exe()?, &copy)?;
    Ok((directory, copy))
}

pub fn an_ordinary_user_can() -> Result<()> {
    let as_nobody = |command: &mut Command| {
        let command = command.current_dir("/").uid(NOBODY).gid(NOBODY);
        command.output()
    };
    let kernel_lets = as_nobody(Command::new("unshare").args(["-Urn", "true"]))?;
    if !kernel_lets.status.success() {
        let why = String::from_utf8_lossy(&kernel_lets.stderr).into_owned();
        return Err(Skip(format!("this host lets no ordinary user: {}", why.trim())).into());
    }
    let (_directory, copy) = copy_for_all()?;
    let output = as_nobody(Command::new(copy).args(["--exact", "second_host_answers"]))?;
    let said = String::from_utf8_lossy(&output.stdout);
    ensure!(
        output.status.success() && said.contains("1 passed"),
        "{said}"
    );
    Ok(())
}

pub fn an_ordinary_user_who_may_not_is_told_how() -> Result<()> {
    let (_directory, copy) = copy_for_all()?;
    // In a user namespace that allows no further one, whose root we map from outside.
    let script = format!(
        "echo; read mapped; echo 0 >/proc/sys/user/max_user_namespaces; \
         exec setpriv --reuid={NOBODY} --regid={NOBODY} --clear-groups --inh-caps=-all --ambient-caps=-all \
         {} --exact second_host_answers",
        copy.display()
    );
    let mut child = Command::new("unshare")
        .args(["-U", "--keep-caps", "sh", "-c", &script])
        .current_dir("/")
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .spawn()?;
    let mut stdout = BufReader::new(child.stdout.take().context("its output")?);
    if stdout.read_line(&mut String::new())? == 0 {
        child.wait()?;
        return Err(Skip("this host lets nobody make user namespaces".into()).into());
    }
    for file in ["uid_map", "gid_map"] {
        let file = format!("/proc/{}/{file}", child.id());
        std::fs::write(&file, "0 0 65536").with_context(|| file.clone())?;
    }
    child
        .stdin
        .take()
        .context("its input")?
        .write_all(b"mapped\n")?;
    let said = std::io::read_to_string(stdout)?;
    ensure!(!child.wait()?.success(), "{said}");
    ensure!(
        said.contains("cannot make a network as an ordinary user")
            && said.contains("user.max_user_namespaces is 0")
            && said.contains("or run as root"),
        "{said}"
    );
    Ok(())
}
