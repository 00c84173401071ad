//! Which build of a program this is.

use goblin::elf::Elf;
use goblin::elf::note::NT_GNU_BUILD_ID;
use sha2::{Digest, Sha256};
use std::path::Path;

/// The build id of an ELF program, "build-id:…" in hexadecimal; of another file its digest, "sha256:…".
/// None where it cannot be read.
pub fn of(program: &Path) -> Option<String> {
    Some(build(&std::fs::read(program).ok()?))
}

fn build(file: &[u8]) -> String {
    match build_id(file) {
        Some(id) => id.iter().fold("build-id:".to_owned(), |text, byte| {
            text + &format!("{byte:02x}")
        }),
        None => format!("sha256:{:x}", Sha256::digest(file)),
    }
}

/// Nothing for a file that is not ELF, or that has no build id.
fn build_id(file: &[u8]) -> Option<&[u8]> {
    let elf = Elf::parse(file).ok()?;
    let mut notes = elf.iter_note_headers(file)?.flatten();
    let note = notes.find(|note| note.n_type == NT_GNU_BUILD_ID && note.name == "GNU")?;
    Some(note.desc)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::process::Command;

    #[test]
    fn a_script_has_its_digest_for_a_build_id() {
        let empty = "sha256:e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855";
        assert_eq!(build(b""), empty);
    }

    #[test]
    fn a_build_id_is_what_readelf_prints() {
        let bash = std::fs::read("/bin/bash").unwrap();
        let output = Command::new("readelf")
            .args(["--notes", "/bin/bash"])
            .output();
        let Ok(output) = output else { return };
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let Some((_, id)) = text.split_once("Build ID: ") else {
            return;
        };
        let id = id.split_whitespace().next().unwrap();
        assert_eq!(build(&bash), format!("build-id:{id}"));
    }
}
