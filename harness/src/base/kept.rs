//! What another program prints, which may be without end: up to a bound, in memory and on disk.

use std::collections::VecDeque;
use std::fs::File;
use std::io::{self, Write};

/// The most that one log on disk takes, bytes. A boot prints 60 KiB on its console, and the longest soak some
/// MiB in the transcript of its agent.
pub const LOG: u64 = 32 << 20;

/// What was printed: all of it, or where that is more than a bound its beginning and its end.
#[derive(Debug)]
pub struct Kept {
    /// Of each of the two.
    half: usize,
    head: Vec<u8>,
    tail: VecDeque<u8>,
    left_out: u64,
}

impl Kept {
    /// Nothing yet, and of what comes `most` bytes.
    pub fn new(most: usize) -> Kept {
        Kept {
            half: most / 2,
            head: Vec::new(),
            tail: VecDeque::new(),
            left_out: 0,
        }
    }

    /// Takes what came.
    pub fn push(&mut self, bytes: &[u8]) {
        let room = (self.half - self.head.len()).min(bytes.len());
        let (first, rest) = bytes.split_at(room);
        self.head.extend_from_slice(first);
        let over = (self.tail.len() + rest.len()).saturating_sub(self.half);
        self.left_out += over as u64;
        self.tail.drain(..over.min(self.tail.len()));
        let rest = &rest[rest.len().saturating_sub(self.half)..];
        self.tail.extend(rest);
    }

    /// How many bytes are not here.
    pub fn left_out(&self) -> u64 {
        self.left_out
    }

    /// As text; where something is left out, a line says so.
    pub fn text(&self) -> String {
        let mut bytes = self.head.clone();
        if self.left_out > 0 {
            bytes.extend(format!("\n… ({} bytes left out) …\n", self.left_out).into_bytes());
        }
        let (one, other) = self.tail.as_slices();
        bytes.extend_from_slice(one);
        bytes.extend_from_slice(other);
        String::from_utf8_lossy(&bytes).into_owned()
    }
}

/// A log on disk that takes [`LOG`] bytes; what follows is left out, which its last line says.
#[derive(Debug)]
pub struct Log {
    file: File,
    room: u64,
}

impl Log {
    /// Into `file`, which is empty.
    pub fn new(file: File) -> Log {
        Log { file, room: LOG }
    }
}

impl Write for Log {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.room == 0 {
            return Ok(bytes.len());
        }
        let fits = usize::try_from(self.room).map_or(bytes.len(), |room| room.min(bytes.len()));
        let written = self.file.write(&bytes[..fits])?;
        self.room -= written as u64;
        if self.room == 0 {
            writeln!(
                self.file,
                "\n[what follows is left out: a log takes {LOG} bytes]"
            )?;
        }
        Ok(written)
    }

    fn flush(&mut self) -> io::Result<()> {
        self.file.flush()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::io::{Read as _, Seek as _};

    #[test]
    fn up_to_the_bound_it_is_all_there() {
        let mut kept = Kept::new(8);
        for part in ["a", "", "bcdefg", "h"] {
            kept.push(part.as_bytes());
        }
        assert_eq!((kept.text().as_str(), kept.left_out()), ("abcdefgh", 0));
        kept.push(b"i");
        assert_eq!(kept.text(), "abcd\n… (1 bytes left out) …\nfghi");
    }

    #[test]
    fn beyond_the_bound_its_beginning_and_its_end_are() {
        let mut kept = Kept::new(8);
        kept.push(b"abcdefghijklmnopqrstuvwxyz");
        assert_eq!(kept.text(), "abcd\n… (18 bytes left out) …\nwxyz");
        for _ in 0..1000 {
            kept.push(b"0123456789");
        }
        assert_eq!(kept.text(), "abcd\n… (10018 bytes left out) …\n6789");
        assert!(kept.tail.capacity() < 64);
    }

    #[test]
    fn a_log_on_disk_ends_at_its_bound() {
        let mut file = tempfile::tempfile().unwrap();
        let mut log = Log::new(file.try_clone().unwrap());
        let chunk = vec![b'x'; 1 << 20];
        for _ in 0..40 {
            log.write_all(&chunk).unwrap();
        }
        let mut text = String::new();
        file.rewind().unwrap();
        file.read_to_string(&mut text).unwrap();
        assert!(text.len() < LOG as usize + 100, "{}", text.len());
        assert!(text.ends_with("[what follows is left out: a log takes 33554432 bytes]\n"));
    }
}
