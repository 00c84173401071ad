//! Places on the page that an address names: a trial's is its name, the same in the report of each night.

use crate::html::shown::plain;

/// The id of the trial's place.
pub fn id(trial: &str) -> String {
    plain(trial)
        .split_whitespace()
        .collect::<Vec<_>>()
        .join("_")
}

/// The address of the trial's place.
pub fn link(trial: &str) -> String {
    format!("#{}", percent(&id(trial)))
}

/// `text` as a part of an address, with what has a meaning there or in a query written as %XX.
pub fn percent(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z'
            | b'A'..=b'Z'
            | b'0'..=b'9'
            | b'-'
            | b'_'
            | b'.'
            | b':'
            | b'@'
            | b'!'
            | b'/' => {
                out.push(byte as char);
            }
            other => out += &format!("%{other:02X}"),
        }
    }
    out
}
