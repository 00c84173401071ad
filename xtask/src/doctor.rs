//! `cargo xtask doctor`: what this host can do, a line each, and what each lack costs.

use crate::{Workspace, build, child, setup};
use anyhow::{Context, Result};
use nix::unistd::geteuid;
use report::{colour, out, outln};
use std::process::{Command, ExitCode};
use xshell::{Shell, cmd};

/// Enough for builds, images, the checkpoints of the default matrix (3 GiB) and a few runs' artifacts. Checkpoints of
/// further QEMUs take more where there is more: the harness's own lines say how much.
const DISK_GIB: u64 = 8;

/// What a check found: how it stands, or what is lacking and what that costs.
type Finding = Result<String, String>;

pub fn run(workspace: &Workspace) -> Result<ExitCode> {
    let packages = setup::lack();
    let complete = packages.is_none();
    line(
        "packages",
        packages.map_or(Ok("all that a run needs".into()), Err),
    );
    line("disk", disk(workspace)?);
    line("nextest", nextest(workspace));
    let namespace = in_namespace("true");
    let own = if geteuid().is_root() {
        "as root"
    } else {
        "as an ordinary user"
    };
    line(
        "namespaces",
        if namespace {
            Ok(format!("a network namespace can be made {own}"))
        } else {
            Err(format!(
                "no network namespace can be made {own}, and no trial can run: {NAMESPACES}"
            ))
        },
    );
    if !complete {
        outln!("\nThe other checks need these packages: run this again when they are installed.");
        return Ok(ExitCode::SUCCESS);
    }
    for probe in PROBES.iter().filter(|_| namespace) {
        line(probe.what, probe.run());
    }
    let harness = build::harness(&workspace.root)?;
    let status = child::run(
        Command::new(harness.nicmatrix)
            .arg("doctor")
            .current_dir(&workspace.root),
    )?;
    Ok(ExitCode::from(child::code(status)))
}

fn line(what: &str, finding: Finding) {
    let (word, code, text) = match finding {
        Ok(text) => ("ok", 32, text),
        Err(text) => ("lack", 33, text),
    };
    let word = match colour::wanted(&std::io::stdout()) {
        true => format!("\x1b[{code}m{word:<4}\x1b[0m"),
        false => format!("{word:<4}"),
    };
    out::shown(&format!("{word}  {what:<16} {}\n", out::plain(&text)));
}

fn disk(workspace: &Workspace) -> Result<Finding> {
    let stat =
        nix::sys::statvfs::statvfs(&workspace.root).context("cannot ask for the free space")?;
    let free = stat.blocks_available() * stat.fragment_size() / (1 << 30);
    let at = workspace.root.display();
    Ok(if free >= DISK_GIB {
        Ok(format!("{free} GiB free at {at}"))
    } else {
        Err(format!(
            "{free} GiB free at {at}: images and artifacts may want {DISK_GIB} GiB"
        ))
    })
}

/// The command that installs `cargo nextest`.
pub const GET_NEXTEST: &str = "cargo install --locked cargo-nextest";

/// Whether `cargo nextest` is installed.
pub fn has_nextest(workspace: &Workspace) -> bool {
    let output = child::cargo(&workspace.root)
        .args(["nextest", "--version"])
        .output();
    output.is_ok_and(|o| o.status.success())
}

fn nextest(workspace: &Workspace) -> Finding {
    if has_nextest(workspace) {
        Ok("cargo nextest is installed".into())
    } else {
        Err(format!(
            "`cargo xtask test` cannot compare its verdicts with ours; get it with `{GET_NEXTEST}`"
        ))
    }
}

/// What to do where no namespace can be made.
const NAMESPACES: &str = "run as root, or allow user namespaces \
    (`sysctl kernel.unprivileged_userns_clone=1`; on Ubuntu 24.04 also \
    `sysctl kernel.apparmor_restrict_unprivileged_userns=0`); \
    in a container, give it --privileged or CAP_SYS_ADMIN";

/// Something that the kernel may lack, tried out in a namespace of its own.
struct Probe {
    what: &'static str,
    /// Shell commands that succeed where the kernel has it.
    try_it: &'static str,
    has: &'static str,
    /// What its lack costs, and what to do.
    cost: &'static str,
}

const PROBES: &[Probe] = &[
    Probe {
        what: "tap devices",
        try_it: "ip tuntap add dev tap0 mode tap",
        has: "/dev/net/tun makes them",
        cost: "no trial can run: `modprobe tun`; in a container, --device /dev/net/tun",
    },
    Probe {
        what: "bridges",
        try_it: "ip link add br0 type bridge",
        has: "this kernel has them",
        cost: "no trial can run: `modprobe bridge`",
    },
    Probe {
        what: "nf_tables",
        try_it: "nft 'add table netdev t; \
                 add chain netdev t c { type filter hook ingress device lo priority 0; }'",
        has: "faults can drop frames",
        cost: "faults that drop frames cannot be shown: `modprobe nf_tables_netdev`",
    },
];

impl Probe {
    fn run(&self) -> Finding {
        if in_namespace(self.try_it) {
            Ok(self.has.into())
        } else {
            Err(self.cost.into())
        }
    }
}

/// Whether `script` succeeds in a new network namespace, in a user namespace where need be.
fn in_namespace(script: &str) -> bool {
    let flags = if geteuid().is_root() { "-n" } else { "-Urn" };
    let script = format!("PATH=$PATH:/usr/sbin:/sbin; {script}");
    Shell::new().is_ok_and(|shell| {
        let tried = cmd!(shell, "unshare {flags} sh -c {script}");
        tried.quiet().ignore_stdout().ignore_stderr().run().is_ok()
    })
}
