//! An ordinary user's way to a network of his own: root inside a user namespace.

use crate::base::error::CannotRun;
use anyhow::{Context as _, Result};
use nix::errno::Errno;
use nix::sched::{CloneFlags, unshare};
use nix::unistd::{getegid, geteuid};
use std::fs;

/// Capabilities that the trials' networks take: CAP_NET_ADMIN, CAP_NET_RAW, CAP_SYS_ADMIN.
const NEEDED: [u32; 3] = [12, 13, 21];

/// Makes an ordinary user (or a root without the capabilities) root of a new user namespace with
/// an empty network. Call it first in `main`: the kernel allows it only while the process has one
/// thread. The error is a [`CannotRun`] that names the setting in the way.
pub fn enter_if_needed() -> Result<()> {
    let status =
        fs::read_to_string("/proc/self/status").context("cannot read /proc/self/status")?;
    if geteuid().is_root() && has_capabilities(&status) {
        return Ok(());
    }
    let (uid, gid) = (geteuid(), getegid());
    let flags = CloneFlags::CLONE_NEWUSER | CloneFlags::CLONE_NEWNET;
    unshare(flags).map_err(|e| {
        explain(
            "unshare(CLONE_NEWUSER | CLONE_NEWNET)",
            e,
            &Settings::read(),
        )
    })?;
    for (file, text) in [
        ("/proc/self/setgroups", "deny".to_owned()), // without it gid_map is refused
        ("/proc/self/uid_map", format!("0 {uid} 1")),
        ("/proc/self/gid_map", format!("0 {gid} 1")),
    ] {
        fs::write(file, text).map_err(|e| {
            let errno = Errno::from_raw(e.raw_os_error().unwrap_or_default());
            explain(&format!("writing {file}"), errno, &Settings::read())
        })?;
    }
    Ok(())
}

fn has_capabilities(status: &str) -> bool {
    let effective = status
        .lines()
        .find_map(|line| line.strip_prefix("CapEff:"))
        .and_then(|hex| u64::from_str_radix(hex.trim(), 16).ok())
        .unwrap_or_default();
    NEEDED.iter().all(|bit| effective & (1 << bit) != 0)
}

/// The kernel's settings on user namespaces; `None` where this kernel has no such setting.
#[derive(Default)]
struct Settings {
    unprivileged_userns_clone: Option<u64>,
    apparmor_restrict: Option<u64>,
    max_user_namespaces: Option<u64>,
}

impl Settings {
    fn read() -> Settings {
        let number = |file: &str| fs::read_to_string(file).ok()?.trim().parse().ok();
        Settings {
            unprivileged_userns_clone: number("/proc/sys/kernel/unprivileged_userns_clone"),
            apparmor_restrict: number("/proc/sys/kernel/apparmor_restrict_unprivileged_userns"),
            max_user_namespaces: number("/proc/sys/user/max_user_namespaces"),
        }
    }
}

fn explain(what: &str, errno: Errno, settings: &Settings) -> CannotRun {
    let allow = |setting: &str, value: &str, to: &str| {
        format!(
            "the kernel's setting {setting} is {value}: allow it with `sudo sysctl -w {setting}={to}`"
        )
    };
    let why = if settings.unprivileged_userns_clone == Some(0) {
        allow("kernel.unprivileged_userns_clone", "0", "1")
    } else if settings.max_user_namespaces == Some(0) {
        allow("user.max_user_namespaces", "0", "10000")
    } else if settings.apparmor_restrict == Some(1) {
        allow("kernel.apparmor_restrict_unprivileged_userns", "1", "0")
    } else {
        match errno {
            Errno::ENOSPC => "user.max_user_namespaces is used up: raise it with \
                `sudo sysctl -w user.max_user_namespaces=N`"
                .into(),
            Errno::EINVAL => "the process has several threads already, or this kernel has no user \
                namespaces"
                .into(),
            _ => "something around this process forbids it, as the default seccomp profile of a \
                container does: start the container with `--privileged`, or with \
                `--cap-add NET_ADMIN --cap-add SYS_ADMIN --device /dev/net/tun` and \
                `--security-opt seccomp=unconfined`"
                .to_owned(),
        }
    };
    CannotRun(format!(
        "cannot make a network as an ordinary user: {what} failed: {}; {why}; or run as root",
        errno.desc()
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_obstacle_is_named_with_its_remedy() {
        let say = |errno, settings: Settings| explain("unshare", errno, &settings).0;
        let debian = Settings {
            unprivileged_userns_clone: Some(0),
            ..Settings::default()
        };
        assert!(say(Errno::EPERM, debian).contains(
            "kernel.unprivileged_userns_clone is 0: allow it with \
             `sudo sysctl -w kernel.unprivileged_userns_clone=1`; or run as root"
        ));
        let ubuntu = Settings {
            apparmor_restrict: Some(1),
            max_user_namespaces: Some(9),
            ..Settings::default()
        };
        assert!(
            say(Errno::EACCES, ubuntu)
                .contains("`sudo sysctl -w kernel.apparmor_restrict_unprivileged_userns=0`")
        );
        let none = Settings {
            max_user_namespaces: Some(0),
            ..Settings::default()
        };
        assert!(say(Errno::ENOSPC, none).contains("user.max_user_namespaces is 0"));
        assert!(say(Errno::ENOSPC, Settings::default()).contains("used up"));
        assert!(say(Errno::EINVAL, Settings::default()).contains("several threads"));
        assert!(say(Errno::EPERM, Settings::default()).contains("--privileged"));
    }

    #[test]
    fn capabilities_are_read_from_the_effective_set() {
        assert!(has_capabilities("CapPrm:\t0\nCapEff:\t000001ffffffffff\n"));
        assert!(!has_capabilities(
            "CapPrm:\t000001ffffffffff\nCapEff:\t0000000000000000\n"
        ));
        // Docker's default set: CAP_NET_RAW alone.
        assert!(!has_capabilities("CapEff:\t00000000a80425fb\n"));
        assert!(!has_capabilities(""));
    }
}
