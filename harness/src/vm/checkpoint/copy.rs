//! Copies of a guest's memory without its holes, which are most of it.

use anyhow::{Context as _, Result, ensure};
use nix::errno::Errno;
use nix::unistd::{Whence, lseek};
use serde::{Deserialize, Serialize};
use std::fs::File;
use std::io::{self, Read as _};
use std::os::unix::fs::{FileExt as _, OpenOptionsExt as _};
use std::path::Path;

/// A hole that is smaller is copied as zeros: a list of all of them would be long.
const LEAST_HOLE: u64 = 64 << 10;

/// Bytes that are copied at a time; a multiple of a word's.
const CHUNK: usize = 256 << 10;

/// What is in a file beside holes.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Extents {
    /// The file's size, bytes.
    pub size: u64,
    /// Where data begins and ends, bytes.
    pub data: Vec<(u64, u64)>,
}

impl Extents {
    /// Of a regular file, which may not be a link. Where the file system knows no holes, all of it is data.
    ///
    /// # Errors
    /// A file that cannot be read, or is no regular one.
    pub fn of(path: &Path) -> Result<Extents> {
        let file = open(path)?;
        let size = file.metadata()?.len();
        let seek = |at: u64, whence| match lseek(&file, at as i64, whence) {
            Ok(found) => Ok(Some(found as u64)),
            Err(Errno::ENXIO) => Ok(None),
            Err(error) => Err(error),
        };
        let mut data: Vec<(u64, u64)> = Vec::new();
        let mut at = 0;
        while let Some(begin) = seek(at, Whence::SeekData)? {
            let end = seek(begin, Whence::SeekHole)?.unwrap_or(size);
            match data.last_mut() {
                Some((_, last)) if begin - *last < LEAST_HOLE => *last = end,
                _ => data.push((begin, end)),
            }
            at = end;
        }
        Ok(Extents { size, data })
    }
}

/// Copies of a regular file what `extents` names to a new file `to`, whose rest are holes. The sum of the
/// data is returned: two files with the same sum and size are alike but by intent.
///
/// # Errors
/// A file that exists already, is no regular one, is shorter than `extents` say, or cannot be read or written.
pub fn copy(from: &Path, to: &Path, extents: &Extents) -> Result<u64> {
    let source = open(from)?;
    let cannot = || format!("write {}", to.display());
    let target = File::create_new(to).with_context(cannot)?;
    target.set_len(extents.size).with_context(cannot)?;
    let mut buffer = vec![0; CHUNK];
    let mut sum = 0u64;
    for &(begin, end) in &extents.data {
        let mut at = begin;
        while at < end {
            let count = usize::try_from(end - at).unwrap_or(CHUNK).min(CHUNK);
            let chunk = &mut buffer[..count];
            source
                .read_exact_at(chunk, at)
                .with_context(|| format!("read {}", from.display()))?;
            sum = sum.wrapping_add(summed(chunk, at));
            target.write_all_at(chunk, at).with_context(cannot)?;
            at += count as u64;
        }
    }
    Ok(sum)
}

/// The sum of `bytes` at that place of a file, in which zeros count nothing: each word by its place.
fn summed(bytes: &[u8], at: u64) -> u64 {
    let (words, rest) = bytes.as_chunks::<8>();
    let mut last = [0; 8];
    last[..rest.len()].copy_from_slice(rest);
    let words = words.iter().chain(std::iter::once(&last));
    let places = (at / 8..).map(|word| word.wrapping_mul(2).wrapping_add(1));
    words
        .zip(places)
        .map(|(word, place)| u64::from_le_bytes(*word).wrapping_mul(place))
        .fold(0, u64::wrapping_add)
}

fn open(path: &Path) -> Result<File> {
    let cannot = || format!("read {}", path.display());
    let file = File::options()
        .read(true)
        .custom_flags(nix::libc::O_NOFOLLOW | nix::libc::O_NONBLOCK)
        .open(path)
        .with_context(cannot)?;
    let regular = file.metadata().with_context(cannot)?.is_file();
    ensure!(regular, "{} is no regular file", path.display());
    Ok(file)
}

/// Whether a file begins with `magic`.
///
/// # Errors
/// A file that cannot be read.
pub fn begins_with(path: &Path, magic: &[u8]) -> io::Result<bool> {
    let mut found = vec![0; magic.len()];
    match File::open(path)?.read_exact(&mut found) {
        Ok(()) => Ok(found == magic),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => Ok(false),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    /// 64 MiB with some bytes at the begin, in the middle and at the end.
    fn sparse(directory: &Path) -> std::path::PathBuf {
        let path = directory.join("ram");
        let file = File::create(&path).unwrap();
        file.set_len(64 << 20).unwrap();
        for at in [0, 32 << 20, (64 << 20) - 5] {
            file.write_all_at(b"guest", at).unwrap();
        }
        path
    }

    #[test]
    fn a_copy_is_alike_and_as_small_and_so_is_a_copy_of_all_bytes_but_for_its_size() {
        let directory = tempfile::tempdir().unwrap();
        let path = sparse(directory.path());
        let extents = Extents::of(&path).unwrap();
        assert_eq!(extents.size, 64 << 20);
        let (small, large) = (
            directory.path().join("small"),
            directory.path().join("large"),
        );
        let sum = copy(&path, &small, &extents).unwrap();
        let whole = Extents {
            data: vec![(0, extents.size)],
            ..extents
        };
        assert_eq!(copy(&path, &large, &whole).unwrap(), sum);
        let content = std::fs::read(&path).unwrap();
        for copied in [&small, &large] {
            assert!(std::fs::read(copied).unwrap() == content);
        }
        let blocks = |path: &Path| path.metadata().unwrap().blocks();
        assert!(blocks(&small) <= blocks(&path) + 8);
    }

    #[test]
    fn the_sum_tells_a_changed_byte_and_a_changed_order() {
        let sum = |bytes: &[u8]| summed(bytes, 16);
        let text = b"all that a guest remembers";
        assert_ne!(sum(text), sum(b"all that a guest remembered"));
        assert_ne!(
            sum(b"11111111\0\0\0\0\0\0\0\0"),
            sum(b"\0\0\0\0\0\0\0\x0011111111")
        );
        let (first, second) = text.split_at(16);
        assert_eq!(sum(text), sum(first).wrapping_add(summed(second, 16 + 16)));
    }

    #[test]
    fn links_directories_and_files_that_are_too_short_are_refused() {
        let directory = tempfile::tempdir().unwrap();
        let (file, link) = (directory.path().join("file"), directory.path().join("link"));
        std::fs::write(&file, "short").unwrap();
        std::os::unix::fs::symlink(&file, &link).unwrap();
        assert!(Extents::of(&link).is_err());
        assert!(Extents::of(directory.path()).is_err());
        let longer = Extents {
            size: 4096,
            data: vec![(0, 4096)],
        };
        assert!(copy(&file, &directory.path().join("copy"), &longer).is_err());
        // It is never written over.
        let fits = Extents {
            size: 5,
            data: vec![(0, 5)],
        };
        assert!(copy(&link, &directory.path().join("other"), &fits).is_err());
        assert!(copy(&file, &file, &fits).is_err());
        assert!(begins_with(&file, b"sho").unwrap() && !begins_with(&file, b"shorter").unwrap());
    }
}
