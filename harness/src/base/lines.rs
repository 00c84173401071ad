//! Lines that another program sends. It may send anything, so a line has a bound.

use super::words;
use std::io::{self, BufRead as _, BufReader, Read};

/// The longest message of QMP, of a guest's agent or of a lab, bytes. QEMU's longest, its schema, has some
/// 200 KiB, and a guest's command that prints so much that this is not enough has gone wrong.
pub const MESSAGE: usize = 8 << 20;

/// Why there is no further line.
#[derive(Debug, thiserror::Error)]
pub enum Unreadable {
    /// Nothing more is read: where the next line begins is not known.
    #[error("a line came that has more than {most} bytes; it begins `{begins}`")]
    TooLong {
        /// The bound.
        most: usize,
        /// Its beginning.
        begins: String,
    },
    /// The stream failed.
    #[error(transparent)]
    Failed(#[from] io::Error),
}

/// The lines of a stream.
pub struct Lines<R> {
    stream: BufReader<R>,
    most: usize,
    buffer: Vec<u8>,
}

impl<R: Read> Lines<R> {
    /// Of `stream`; a line may have `most` bytes.
    pub fn new(stream: R, most: usize) -> Lines<R> {
        Lines {
            stream: BufReader::new(stream),
            most,
            buffer: Vec::new(),
        }
    }

    /// The next line, without its end; what follows the last line's end is a line too. `None` at the stream's
    /// end.
    ///
    /// # Errors
    /// A line that is too long; a stream that fails.
    pub fn line(&mut self) -> Result<Option<&[u8]>, Unreadable> {
        self.buffer.clear();
        // A buffer that was needed once is not held for ever.
        self.buffer.shrink_to(64 << 10);
        let bound = self.most as u64 + 1;
        let mut bounded = (&mut self.stream).take(bound);
        if bounded.read_until(b'\n', &mut self.buffer)? == 0 {
            return Ok(None);
        }
        if self.buffer.last() == Some(&b'\n') {
            self.buffer.pop();
        } else if self.buffer.len() > self.most {
            return Err(Unreadable::TooLong {
                most: self.most,
                begins: words::quoted_line(&self.buffer),
            });
        }
        Ok(Some(&self.buffer))
    }

    /// As [`Lines::line`], as text.
    ///
    /// # Errors
    /// As [`Lines::line`].
    pub fn text(&mut self) -> Result<Option<String>, Unreadable> {
        let line = self.line()?;
        Ok(line.map(|line| String::from_utf8_lossy(line).into_owned()))
    }
}

impl<R: Read> Read for Lines<R> {
    /// What follows the lines that were taken.
    fn read(&mut self, buffer: &mut [u8]) -> io::Result<usize> {
        self.stream.read(buffer)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(bytes: &[u8], most: usize) -> Vec<String> {
        let mut lines = Lines::new(bytes, most);
        let mut all = Vec::new();
        loop {
            match lines.text() {
                Ok(Some(line)) => all.push(line),
                Ok(None) => return all,
                Err(error) => {
                    all.push(error.to_string());
                    return all;
                }
            }
        }
    }

    #[test]
    fn lines_up_to_the_bound_are_whole() {
        assert_eq!(
            read(b"one\n\ntwo\xff\nhalf", 4),
            ["one", "", "two\u{fffd}", "half"]
        );
        assert_eq!(read(b"four\n", 4), ["four"]);
        assert!(read(b"", 4).is_empty());
    }

    #[test]
    fn a_line_beyond_the_bound_is_an_error_that_quotes_it() {
        assert_eq!(
            read(b"a\nfi\x1b[1mve!!\nb\n", 8),
            [
                "a",
                "a line came that has more than 8 bytes; it begins `five!`"
            ]
        );
    }

    #[test]
    fn what_never_ends_is_not_held() {
        let mut lines = Lines::new(io::repeat(b'x'), 1 << 20);
        assert!(matches!(lines.line(), Err(Unreadable::TooLong { .. })));
        assert!(
            lines.buffer.capacity() <= 4 << 20,
            "{}",
            lines.buffer.capacity()
        );
    }
}
