//! What a run needs of the distribution: found, or installed, or named.

use crate::child;
use anyhow::{Result, bail};
use nix::unistd::geteuid;
use report::flags::{Conditions, QemuChoice};
use report::{errln, outln};
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode, Stdio};
use std::time::{Duration, Instant};

const EXAMPLES: &str = "\
Examples:
  cargo xtask setup
  cargo xtask setup --no-install    only say what is missing";

#[derive(clap::Args)]
#[command(after_help = EXAMPLES)]
pub struct Args {
    /// Never install: fail and say what is missing
    #[arg(long)]
    no_install: bool,
}

/// Something that a run needs.
#[derive(Debug)]
struct Need {
    /// Any of these will do: a file, or a program in PATH or in the system's directories, which an
    /// ordinary user's PATH may lack. The first is Debian's.
    any: &'static [&'static str],
    /// Debian's and Ubuntu's package of it.
    package: &'static str,
    /// What it is for.
    why: &'static str,
}

impl Need {
    fn found(&self) -> bool {
        self.any.iter().any(|name| match name.starts_with('/') {
            true => Path::new(name).exists(),
            false => program(name).is_some(),
        })
    }
}

const QEMU: Need = Need {
    any: &["qemu-system-x86_64", "/usr/libexec/qemu-kvm"],
    package: "qemu-system-x86",
    why: "runs the VMs",
};

/// What a run needs besides a QEMU.
const NEEDS: &[Need] = &[
    Need {
        any: &["/usr/share/seabios/bios-256k.bin"],
        package: "seabios",
        why: "the VMs' firmware",
    },
    Need {
        any: &[
            "/usr/lib/ipxe/qemu/efi-virtio.rom",
            "/usr/share/ipxe/qemu/efi-virtio.rom",
        ],
        package: "ipxe-qemu",
        why: "the NICs' boot ROMs",
    },
    Need {
        any: &["/usr/share/ovmf/OVMF.fd", "/usr/share/OVMF/OVMF.fd"],
        package: "ovmf",
        why: "the firmware of VMs that boot through UEFI",
    },
    Need {
        any: &["ip"],
        package: "iproute2",
        why: "bridges and taps",
    },
    Need {
        any: &["ping"],
        package: "iputils-ping",
        why: "traffic to the guests",
    },
    Need {
        any: &["dnsmasq"],
        package: "dnsmasq-base",
        why: "the guests' DHCP server",
    },
    Need {
        any: &["nft"],
        package: "nftables",
        why: "faults in the traffic",
    },
    Need {
        any: &["depmod"],
        package: "kmod",
        why: "the guest kernel's modules",
    },
    // Distributions pack kernels and modules each in their own way.
    Need {
        any: &["xz"],
        package: "xz-utils",
        why: "unpacks guest kernels",
    },
    Need {
        any: &["zstd"],
        package: "zstd",
        why: "unpacks guest kernels",
    },
    Need {
        any: &["lz4"],
        package: "lz4",
        why: "unpacks guest kernels",
    },
];

/// What the tests need beside it.
const FOR_TESTS: &[Need] = &[
    Need {
        any: &["/usr/lib/grub/i386-pc/boot.img"],
        package: "grub-pc-bin",
        why: "boots a test's disk image",
    },
    Need {
        any: &["mkfs.ext4"],
        package: "e2fsprogs",
        why: "makes a test's disk image",
    },
    Need {
        any: &["chromium", "google-chrome"],
        package: "chromium",
        why: "opens the HTML report in a test",
    },
];

/// What is going to run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum For {
    /// Trials.
    Trials,
    /// The tests, and trials.
    Tests,
}

/// Where `name` is, if it is anywhere.
fn program(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path)
        .chain(["/usr/sbin".into(), "/sbin".into()])
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// Whether these name a QEMU in place of the distribution's.
pub fn own_qemu(conditions: &Conditions) -> bool {
    conditions.qemu.iter().any(|choice| match choice {
        QemuChoice::Program(_) => true,
        QemuChoice::Added(..) => false,
        QemuChoice::Names(names) => matches!(&names[..], [name] if program(name).is_some()),
    })
}

fn missing(what: For, own_qemu: bool) -> Vec<&'static Need> {
    let qemu = (!own_qemu).then_some(&QEMU);
    let more = match what {
        For::Trials => &[],
        For::Tests => FOR_TESTS,
    };
    qemu.into_iter()
        .chain(NEEDS)
        .chain(more)
        .filter(|need| !need.found())
        .collect()
}

/// By which right packages can be installed.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Rights {
    Root,
    /// `sudo -n` asks for no password.
    Sudo,
    None,
}

impl Rights {
    fn probe() -> Self {
        if geteuid().is_root() {
            return Rights::Root;
        }
        let sudo = Command::new("sudo")
            .args(["-n", "true"])
            .stdin(Stdio::null())
            .stdout(Stdio::null())
            .stderr(Stdio::null())
            .status();
        if sudo.is_ok_and(|s| s.success()) {
            Rights::Sudo
        } else {
            Rights::None
        }
    }
}

/// `["apt-get", …]` with what makes it run by itself and, if need be, as root.
fn apt(rights: Rights, words: &[&str]) -> Vec<String> {
    let prefix: &[&str] = match rights {
        Rights::Root => &[],
        Rights::Sudo | Rights::None => &["sudo", "-n"],
    };
    // Two runs on one machine may both find something missing; the second waits for the first.
    let apt = [
        "env",
        "DEBIAN_FRONTEND=noninteractive",
        "apt-get",
        "-o",
        "DPkg::Lock::Timeout=300",
    ];
    prefix
        .iter()
        .chain(&apt)
        .chain(words)
        .map(ToString::to_string)
        .collect()
}

/// The arguments with which apt-get installs `packages`.
fn install_words<'a>(packages: &[&'a str]) -> Vec<&'a str> {
    [&["install", "-y", "--no-install-recommends"], packages].concat()
}

/// What a user types to install by hand.
fn by_hand(root: bool, packages: &[&str]) -> String {
    let sudo = if root { "" } else { "sudo " };
    let install = install_words(packages).join(" ");
    format!("{sudo}apt-get update && {sudo}apt-get {install}")
}

fn packages(missing: &[&Need]) -> Vec<&'static str> {
    missing.iter().map(|n| n.package).collect()
}

/// One line for each, for a message.
fn reasons(missing: &[&Need]) -> String {
    let line = |n: &&Need| format!("\n  {} ({})", n.any[0], n.why);
    missing.iter().map(line).collect()
}

/// Whether apt's packages are this system's, by `/etc/os-release`.
fn is_debian(os_release: &str) -> bool {
    os_release
        .lines()
        .filter_map(|line| line.strip_prefix("ID=").or(line.strip_prefix("ID_LIKE=")))
        .flat_map(|ids| ids.trim_matches('"').split_whitespace())
        .any(|id| id == "debian" || id == "ubuntu")
}

/// Whether `apt-get update` was ever run here.
fn has_lists() -> bool {
    let Ok(lists) = std::fs::read_dir("/var/lib/apt/lists") else {
        return false;
    };
    lists
        .flatten()
        .any(|entry| entry.file_name().to_string_lossy().contains("_Packages"))
}

/// Sees to it that everything a run needs is there: silent when it is, else says what it installs.
pub fn ensure(purpose: For, may_install: bool, own_qemu: bool) -> Result<()> {
    let missing = missing(purpose, own_qemu);
    if missing.is_empty() && has_lists() {
        return Ok(());
    }
    let os_release = std::fs::read_to_string("/etc/os-release").unwrap_or_default();
    let debian = is_debian(&os_release);
    if missing.is_empty() {
        return if debian && may_install {
            fetch_lists()
        } else {
            Ok(())
        };
    }
    if !debian {
        bail!(
            "this system lacks what a run needs, and packages can be installed here on Debian \
             and Ubuntu only. Please install:{}",
            reasons(&missing)
        );
    }
    let packages = packages(&missing);
    let by_hand = by_hand(geteuid().is_root(), &packages);
    if !may_install {
        bail!(
            "this system lacks what a run needs:{}\nInstall it with: {by_hand}",
            reasons(&missing)
        );
    }
    let rights = Rights::probe();
    if rights == Rights::None {
        bail!(
            "this system lacks what a run needs, and installing it takes root or a `sudo -n` \
            that asks for no password:{}\nInstall it with: {by_hand}",
            reasons(&missing)
        );
    }
    let what: Vec<_> = missing
        .iter()
        .map(|n| format!("{} ({})", n.package, n.why))
        .collect();
    errln!("Installing {}", what.join(", "));
    let begun = Instant::now();
    if let Err(e) = install(rights, &packages) {
        if e.is::<child::Interrupted>() {
            return Err(e);
        }
        bail!("{e:#}\nWhen that is repaired, run this again, or install by hand: {by_hand}");
    }
    let still = self::missing(purpose, own_qemu);
    if !still.is_empty() {
        bail!(
            "installed {}, but this is still missing:{}",
            packages.join(" "),
            reasons(&still)
        );
    }
    errln!("Installed in {:.0} s", begun.elapsed().as_secs_f64());
    Ok(())
}

/// apt finds the guest image's packages by its lists. Where the lists cannot be fetched, a run may
/// still succeed: the image may be built already, or be the user's own.
fn fetch_lists() -> Result<()> {
    match Rights::probe() {
        Rights::None => Ok(()),
        rights => {
            errln!("Fetching apt's package lists (for the guest image)");
            quietly(&apt(rights, &["update"]))
        }
    }
}

fn install(rights: Rights, packages: &[&str]) -> Result<()> {
    let install = apt(rights, &install_words(packages));
    let update = apt(rights, &["update"]);
    if has_lists() {
        match quietly(&install) {
            // Lists that are too old name packages that the mirror no longer has.
            Err(e) if !e.is::<child::Interrupted>() => {}
            ended => return ended,
        }
    }
    quietly(&update)?;
    quietly(&install)
}

/// How long apt's lists may be locked, as long as the lock of its packages ([`apt`]): apt waits for that one alone.
const LISTS_LOCKED: Duration = Duration::from_secs(300);
/// Between two tries meanwhile.
const AGAIN: Duration = Duration::from_secs(1);

/// Runs a command of apt and shows what it wrote only if it fails.
fn quietly(argv: &[String]) -> Result<()> {
    waiting_for_lists(argv, LISTS_LOCKED, AGAIN)
}

fn waiting_for_lists(argv: &[String], most: Duration, again: Duration) -> Result<()> {
    let begun = Instant::now();
    loop {
        let mut command = Command::new(&argv[0]);
        command.args(&argv[1..]);
        let (status, output) = child::output(command, false)?;
        if status.success() {
            return Ok(());
        }
        if !lists_are_locked(&output) || begun.elapsed() >= most {
            bail!(
                "{} ended with {status}:\n{}",
                argv.join(" "),
                output.trim_end()
            )
        }
        std::thread::sleep(again);
    }
}

/// Whether apt gave up as another process has its lists: "E: Could not get lock /var/lib/apt/lists/lock. It is
/// held by process 42 (apt-get)".
fn lists_are_locked(output: &str) -> bool {
    (output.lines()).any(|line| line.contains("get lock") && line.contains("/lists/lock"))
}

pub fn run(args: &Args) -> Result<ExitCode> {
    ensure(For::Trials, !args.no_install, false)?;
    outln!("everything that a run needs is installed");
    Ok(ExitCode::SUCCESS)
}

/// The state for `doctor`: what is missing and the command that gets it, or nothing.
pub fn lack() -> Option<String> {
    let missing = missing(For::Trials, false);
    if missing.is_empty() {
        return None;
    }
    let by_hand = by_hand(geteuid().is_root(), &packages(&missing));
    let names: Vec<_> = missing.iter().map(|n| n.any[0]).collect();
    Some(format!(
        "{}; get them with `cargo xtask setup`, or: {by_hand}",
        names.join(", ")
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    const DNS: Need = Need {
        any: &["dnsmasq"],
        package: "dnsmasq-base",
        why: "the guests' DHCP server",
    };
    const NFT: Need = Need {
        any: &["nft"],
        package: "nftables",
        why: "faults in the traffic",
    };

    #[test]
    fn the_command_to_type_is_exact() {
        let packages = packages(&[&DNS, &NFT]);
        assert_eq!(
            by_hand(true, &packages),
            "apt-get update && \
             apt-get install -y --no-install-recommends dnsmasq-base nftables"
        );
        assert_eq!(
            by_hand(false, &packages[..1]),
            "sudo apt-get update && \
             sudo apt-get install -y --no-install-recommends dnsmasq-base"
        );
    }

    #[test]
    fn locked_lists_are_waited_for_and_other_errors_are_not() {
        let directory = tempfile::tempdir().unwrap();
        let free = directory.path().join("free");
        let run = |words: &str, most| {
            let script = format!(
                "[ -e {0} ] && exit 0; touch {0}; echo '{words}' >&2; exit 100",
                free.display()
            );
            let argv = ["sh", "-c", &script].map(str::to_owned);
            let ended = waiting_for_lists(&argv, most, Duration::ZERO);
            let _ = std::fs::remove_file(&free);
            ended
        };
        let locked =
            "E: Could not get lock /var/lib/apt/lists/lock. It is held by process 42 (apt-get)";
        run(locked, LISTS_LOCKED).unwrap();
        let late = run(locked, Duration::ZERO).unwrap_err().to_string();
        assert!(late.contains("process 42"), "{late}");
        assert!(run("E: no route to host", LISTS_LOCKED).is_err());
    }

    #[test]
    fn apt_never_asks() {
        let root = apt(Rights::Root, &["update"]).join(" ");
        assert_eq!(
            root,
            "env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=300 update"
        );
        assert_eq!(
            apt(Rights::Sudo, &["update"]).join(" "),
            format!("sudo -n {root}")
        );
    }

    #[test]
    fn every_lack_is_named_with_its_reason() {
        let text = reasons(&[&DNS, &NFT]);
        assert_eq!(
            text,
            "\n  dnsmasq (the guests' DHCP server)\n  nft (faults in the traffic)"
        );
    }

    #[test]
    fn a_package_is_asked_for_once() {
        let all: Vec<_> = NEEDS.iter().chain(FOR_TESTS).collect();
        for (index, need) in all.iter().enumerate() {
            assert!(
                all[..index].iter().all(|n| n.package != need.package),
                "{need:?}"
            );
        }
    }

    #[test]
    fn what_is_here_is_found() {
        let found = |any| {
            Need {
                any,
                package: "p",
                why: "w",
            }
            .found()
        };
        assert!(found(&["sh"]));
        assert!(!found(&["no-such-program"]));
        assert!(found(&["no-such-program", "/etc/passwd"]));
        assert!(!found(&["/no/such/file"]));
    }

    #[test]
    fn debian_and_its_kin_are_known() {
        assert!(is_debian("PRETTY_NAME=\"Debian\"\nID=debian\n"));
        assert!(is_debian("ID=linuxmint\nID_LIKE=\"ubuntu debian\"\n"));
        assert!(!is_debian("ID=\"rhel\"\nID_LIKE=\"fedora\"\nNAME=debian\n"));
        assert!(!is_debian(""));
    }
}
