//! What the running kernel has for vhost.

use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::ErrorKind;
use std::path::Path;

/// Whether vhost_net sends from the guest's own pages.
pub const ZCOPYTX: &str = "/sys/module/vhost_net/parameters/experimental_zcopytx";

/// What a kernel has for vhost.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct KernelFacts {
    /// Why `/dev/vhost-net` does not open; a sentence for skips.
    pub vhost_obstacle: Option<String>,
    /// `experimental_zcopytx` of the loaded vhost_net module, if there is one.
    pub zcopytx: Option<bool>,
}

/// What this kernel has for vhost, now.
pub fn of_this_kernel() -> KernelFacts {
    // Opening it loads the module where it is not yet loaded, so its parameter is read after.
    let vhost_obstacle = vhost_obstacle(Path::new("/dev/vhost-net"));
    let zcopytx = std::fs::read_to_string(ZCOPYTX).ok();
    KernelFacts {
        vhost_obstacle,
        zcopytx: zcopytx.and_then(|text| switch(text.trim())),
    }
}

fn vhost_obstacle(device: &Path) -> Option<String> {
    let opened = File::options().read(true).write(true).open(device);
    let path = device.display();
    match opened {
        Ok(_) => None,
        Err(e) if e.kind() == ErrorKind::NotFound => {
            Some(format!("this kernel has no vhost_net (no {path})"))
        }
        Err(e) => Some(format!("vhost_net cannot be used: cannot open {path}: {e}")),
    }
}

/// A module parameter: an int (`0`, `1`) or a bool (`N`, `Y`).
pub(super) fn switch(text: &str) -> Option<bool> {
    match text {
        "0" | "N" => Some(false),
        "1" | "Y" => Some(true),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn module_parameters_are_read() {
        let read = ["0", "1", "N", "Y", "2", ""].map(switch);
        let (off, on) = (Some(false), Some(true));
        assert_eq!(read, [off, on, off, on, None, None]);
    }

    #[test]
    fn what_keeps_from_vhost_is_told_apart() {
        let missing = vhost_obstacle(Path::new("/dev/nowhere"));
        insta::assert_snapshot!(missing.unwrap(), @"this kernel has no vhost_net (no /dev/nowhere)");
        let other = vhost_obstacle(Path::new("/dev"));
        insta::assert_snapshot!(other.unwrap(), @"vhost_net cannot be used: cannot open /dev: Is a directory (os error 21)");
        assert_eq!(vhost_obstacle(Path::new("/dev/null")), None);
    }
}
