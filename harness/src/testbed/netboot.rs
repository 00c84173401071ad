//! What a VM without kernel and disk boots from its NIC: a script for iPXE, which is in QEMU's boot
//! ROMs, and the guest's kernel and initramfs, in a directory that TFTP serves. A UEFI firmware's own
//! client takes no script: it is served iPXE as an EFI program, which then asks for the script.

use crate::base::error::OrCannotRun;
use crate::net::bridge::Bridge;
use crate::net::dhcp::NetBoot;
use std::path::{Path, PathBuf};

/// What is asked for, in this order: [`EFI_PROGRAM`] by a UEFI firmware's own client alone.
pub const FILES: [&str; 4] = [EFI_PROGRAM, SCRIPT, KERNEL, INITRD];
/// The file that DHCP names to a UEFI firmware's own client.
pub const EFI_PROGRAM: &str = "ipxe.efi";
/// The file that DHCP names to all others.
pub const SCRIPT: &str = "boot.ipxe";
const KERNEL: &str = "kernel";
/// The initramfs.
pub const INITRD: &str = "initrd";
/// The kernel parameter that holds the MAC of the NIC which fetched it.
pub const FETCHED_BY: &str = "nicmatrix.fetched_by";

/// The directory.
pub struct Served {
    root: PathBuf,
    efi_program: bool,
    ipv6: bool,
}

impl Served {
    /// Fills `root`, which is made; with iPXE as an EFI program, where there is one.
    pub(super) fn new(
        root: PathBuf,
        bridge: &Bridge,
        (kernel, initrd, parameters): (PathBuf, PathBuf, &str),
        efi_program: Option<&Path>,
    ) -> anyhow::Result<Served> {
        let cannot = || format!("fill {}", root.display());
        let fill = || -> std::io::Result<()> {
            std::fs::create_dir_all(&root)?;
            std::fs::write(root.join(SCRIPT), script(parameters))?;
            if let Some(program) = efi_program {
                std::os::unix::fs::symlink(std::path::absolute(program)?, root.join(EFI_PROGRAM))?;
            }
            std::os::unix::fs::symlink(std::path::absolute(kernel)?, root.join(KERNEL))?;
            std::os::unix::fs::symlink(std::path::absolute(initrd)?, root.join(INITRD))
        };
        fill().or_cannot_run(cannot)?;
        // An iPXE that speaks IPv6 waits 13 s for a router before it asks for anything.
        let ipv6 = bridge.enable_ipv6()?;
        Ok(Served {
            root,
            efi_program: efi_program.is_some(),
            ipv6,
        })
    }

    /// What DHCP tells a client that boots from it; with or without a TFTP server.
    pub fn net_boot(&self, tftp: bool) -> NetBoot {
        NetBoot {
            file: SCRIPT.into(),
            efi_program: self.efi_program.then(|| EFI_PROGRAM.into()),
            root: tftp.then(|| self.root.clone()),
            ipv6: self.ipv6,
        }
    }

    /// One of the files in it.
    pub fn file(&self, name: &str) -> PathBuf {
        self.root.join(name)
    }
}

impl Drop for Served {
    fn drop(&mut self) {
        // Tools that collect a trial's artifacts may follow these links, and copy whole images.
        for name in [EFI_PROGRAM, KERNEL, INITRD] {
            let _ = std::fs::remove_file(self.file(name));
        }
    }
}

fn script(parameters: &str) -> String {
    format!(
        "#!ipxe\n\
         kernel {KERNEL} initrd={INITRD} {parameters} {FETCHED_BY}=${{netX/mac}}\n\
         initrd {INITRD}\n\
         boot\n"
    )
}

/// Puts the first `bytes` of a served file in its place.
///
/// # Errors
/// [`crate::base::error::CannotRun`], when it cannot be read or written.
pub fn truncate(file: &Path, bytes: usize) -> anyhow::Result<()> {
    let cut = || -> std::io::Result<()> {
        let mut content = std::fs::read(file)?;
        content.truncate(bytes);
        std::fs::remove_file(file)?;
        std::fs::write(file, content)
    };
    cut().or_cannot_run(|| format!("truncate {}", file.display()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_script_names_the_nic_that_fetched_it() {
        insta::assert_snapshot!(script("console=ttyS0 quiet"), @r"
        #!ipxe
        kernel kernel initrd=initrd console=ttyS0 quiet nicmatrix.fetched_by=${netX/mac}
        initrd initrd
        boot
        ");
    }

    #[test]
    fn a_truncated_file_leaves_what_it_links_to_whole() {
        let directory = tempfile::tempdir().unwrap();
        let (image, served) = (directory.path().join("a"), directory.path().join("b"));
        std::fs::write(&image, "whole").unwrap();
        std::os::unix::fs::symlink(&image, &served).unwrap();
        truncate(&served, 2).unwrap();
        assert_eq!(std::fs::read(&served).unwrap(), b"wh");
        assert_eq!(std::fs::read(&image).unwrap(), b"whole");
    }
}
