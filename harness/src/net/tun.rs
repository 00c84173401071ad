//! `/dev/net/tun`, out of which QEMU makes its taps.

use crate::base::error::CannotRun;
use anyhow::Result;
use std::fs::OpenOptions;
use std::io;

const DEVICE: &str = "/dev/net/tun";

/// Whether this process, and so QEMU, can make taps; if not, the error says what to do.
pub fn check() -> Result<()> {
    match OpenOptions::new().read(true).write(true).open(DEVICE) {
        Ok(_) => Ok(()),
        Err(e) => Err(CannotRun(explain(&e)).into()),
    }
}

fn explain(error: &io::Error) -> String {
    let remedy = match error.kind() {
        io::ErrorKind::NotFound => {
            "load the module with `modprobe tun`; if the device is still missing, \
             `mkdir -p /dev/net && mknod /dev/net/tun c 10 200`; \
             in a container, start that with `--device /dev/net/tun`"
        }
        io::ErrorKind::PermissionDenied => {
            "allow it with `chmod 666 /dev/net/tun` as root (the usual mode: a tap still takes \
             rights in its network namespace), or run as root; in a container, start that with \
             `--device /dev/net/tun`"
        }
        // ENODEV, ENXIO: a device file without a driver behind it.
        _ => "load the module with `modprobe tun`, on the host where this is a container",
    };
    format!("cannot open {DEVICE}, which every tap comes from: {error}; {remedy}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_obstacle_has_its_remedy() {
        for (errno, remedy) in [
            (libc::ENOENT, "modprobe tun"),
            (libc::ENOENT, "mknod"),
            (libc::EACCES, "chmod 666"),
            (libc::EPERM, "run as root"),
            (libc::ENODEV, "modprobe tun"),
        ] {
            let text = explain(&io::Error::from_raw_os_error(errno));
            assert!(text.contains(remedy), "{text}");
        }
    }

    use nix::libc;
}
