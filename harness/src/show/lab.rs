//! `cargo xtask lab`: the labs that several runs share.

use crate::base::error::CannotRun;
use crate::base::thread;
use crate::lab::describe;
use crate::lab::shared::{self, Request};
use crate::net;
use crate::run::context::Context;
use crate::run::planned::planned;
use crate::run::shell::Raw;
use crate::settings::Settings;
use anyhow::{Result, bail};
use report::errln;
use report::name::DEFAULT_QEMU;
use std::fmt::Write as _;
use std::io::{Read, Write as _};
use std::net::Shutdown;
use std::os::fd::AsFd as _;

/// The module settings that there may be a lab for.
const ZCOPYTX: [bool; 2] = [false, true];

/// Ends the shell, as in QEMU: Ctrl-A x.
const ESCAPE: u8 = 0x01;

/// Starts a lab and keeps it; `ready` is called when it is up.
pub fn keep(
    settings: Settings,
    zcopytx: bool,
    ready: impl FnOnce(&str) -> Result<()>,
) -> Result<()> {
    let planned = planned(&settings)?;
    let memory_mib = planned.matrix.lab_memory_mib;
    if let Some(why) = &planned.capabilities.lab_obstacle {
        bail!(CannotRun(format!("there can be no lab: {why}")));
    }
    net::userns::enter_if_needed()?;
    let context = Context::prepare(settings, planned, &[])?;
    shared::keep(
        &context.outside(DEFAULT_QEMU)?,
        zcopytx,
        memory_mib,
        |line| ready(&format!("{line}\n")),
    )
}

/// Which labs are up, a line each.
///
/// # Errors
/// When a lab does not answer as it should.
pub fn status(settings: &Settings) -> Result<String> {
    let mut text = String::new();
    for zcopytx in ZCOPYTX {
        let state = match shared::connect(settings, zcopytx, Request::Status)? {
            Some((_, _, up)) => describe(&up),
            None => "down".to_owned(),
        };
        let _ = writeln!(text, "{:<12} {state}", shared::name(zcopytx));
    }
    Ok(text)
}

/// Ends the labs that are up; returns which they were.
pub fn down(settings: &Settings) -> Result<String> {
    let mut text = String::new();
    for zcopytx in ZCOPYTX {
        if let Some((_, mut reader, _)) = shared::connect(settings, zcopytx, Request::Down)? {
            // The connection ends when the lab has ended.
            let _ = reader.read(&mut [0]);
            let _ = writeln!(text, "{} is down", shared::name(zcopytx));
        }
    }
    if text.is_empty() {
        text = "no lab was up\n".into();
    }
    Ok(text)
}

/// Joins the terminal to a shell in the first lab that is up, until Ctrl-A x.
///
/// # Errors
/// When no lab is up.
pub fn shell(settings: &Settings) -> Result<()> {
    for zcopytx in ZCOPYTX {
        let Some((stream, mut reader, up)) = shared::connect(settings, zcopytx, Request::Shell)?
        else {
            continue;
        };
        errln!("{}; Ctrl-A x: leave it", describe(&up));
        let _raw = Raw::enter();
        thread::start("shell", move || {
            std::io::copy(&mut reader, &mut std::io::stdout())
        })?;
        let (stdin, mut buffer, mut escaped) = (std::io::stdin(), [0; 256], false);
        let mut keys = stream.try_clone()?;
        keys.write_all(b"\n")?;
        loop {
            let count = nix::unistd::read(stdin.as_fd(), &mut buffer).unwrap_or(0);
            for byte in &buffer[..count] {
                match (std::mem::take(&mut escaped), *byte) {
                    (true, b'x') => return Ok(stream.shutdown(Shutdown::Both)?),
                    (false, ESCAPE) => escaped = true,
                    (_, byte) => keys.write_all(&[byte])?,
                }
            }
            if count == 0 {
                return Ok(stream.shutdown(Shutdown::Both)?);
            }
        }
    }
    bail!(CannotRun(
        "no lab is up: `cargo xtask lab up` starts one".into()
    ))
}
