//! What two failures have in common when they are the same failure: their words, without what differs from
//! run to run and from NIC to NIC.

use crate::text::{first_line, floor};

/// Of a line, bytes that count: a guest may print one without end.
const LONGEST: usize = 1024;

/// The first line of `message` with each number, MAC and address in it as `#`: "waited # s for operstate
/// to follow". Two failures with the same signature are one finding. What comes after "showed:" or "shows:"
/// is what was seen, in the order in which it came: it is left out.
pub fn of(message: &str) -> String {
    let line = first_line(message);
    let line = without_what_was_seen(&line[..floor(&line, LONGEST)]);
    let mut out = String::with_capacity(line.len());
    let mut rest = line;
    while let Some(c) = rest.chars().next() {
        let length = number(rest);
        if length > 0 && !out.ends_with(|c: char| c.is_alphabetic()) {
            out.push('#');
            rest = &rest[length..];
        } else if c.is_ascii_digit() {
            // Of a name: eth0, tap1.
            let digits = rest.len() - rest.trim_start_matches(|c: char| c.is_ascii_digit()).len();
            out.push('#');
            rest = &rest[digits..];
        } else {
            out.push(c);
            rest = &rest[c.len_utf8()..];
        }
    }
    out
}

/// `line` up to the first word that announces what was seen, that word included.
fn without_what_was_seen(line: &str) -> &str {
    let ends = [" showed:", " shows:"]
        .iter()
        .filter_map(|word| Some(line.find(word)? + word.len()));
    ends.min().map_or(line, |end| &line[..end])
}

/// The length of the number, MAC or address that `text` begins with, bytes; 0 where it begins with none.
fn number(text: &str) -> usize {
    let hexadecimal = |c: char| c.is_ascii_hexdigit() || matches!(c, ':' | '.' | '-' | 'x');
    let token = &text[..text.len() - text.trim_start_matches(hexadecimal).len()];
    let token = token.trim_end_matches([':', '.', '-', 'x']);
    let ends = !text[token.len()..].starts_with(|c: char| c.is_alphanumeric());
    let is_number = token.starts_with(|c: char| c.is_ascii_digit());
    let is_address = token.matches(':').count() >= 2;
    match ends && (is_number || is_address) {
        true => token.len(),
        false => 0,
    }
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn what_differs_from_run_to_run_is_left_out() {
        for (message, signature) in [
            (
                "operstate of eth0 is not \"down\": waited 9.1 s for operstate\nfacts",
                "operstate of eth# is not \"down\": waited # s for operstate",
            ),
            (
                "no announcement of 52:54:00:ab:cd:ef reached the bridge",
                "no announcement of # reached the bridge",
            ),
            ("lost 3 of 1,000 (0.3%)", "lost # of #,# (#%)"),
            ("198.18.0.1 is fe80::5054:ff:fe00:1", "# is #"),
            ("at 0xdeadbeef, 10:30", "at #, #"),
            ("a dead beef: be", "a dead beef: be"),
            ("é 1x 2", "é #x #"),
            (
                "in VLAN 10 not all replies came back; the tap showed: 9 ARP, 2 IPv6; the console: é",
                "in VLAN # not all replies came back; the tap showed:",
            ),
            (
                "it shows: up, and the tap showed: 2 IPv6, 9 ARP",
                "it shows:",
            ),
            (
                "showed: is no announcement here",
                "showed: is no announcement here",
            ),
            ("", ""),
        ] {
            assert_eq!(of(message), signature);
        }
    }

    #[test]
    fn frames_in_another_order_are_the_same_failure_and_other_words_are_not() {
        let said = |what: &str, seen: &str| {
            of(&format!(
                "{what} of 52:54:00:ab:cd:ef reached the bridge; the destination's tap showed: {seen}"
            ))
        };
        let first = said("no announcement", "3 ARP from 52:54:00:12:34:56, 1 IPv6");
        assert_eq!(
            first,
            said("no announcement", "1 IPv6, 3 ARP from 52:54:00:12:34:56")
        );
        assert_ne!(
            first,
            said("no reply", "3 ARP from 52:54:00:12:34:56, 1 IPv6")
        );
    }

    #[test]
    fn a_line_without_end_is_cut() {
        for endless in ["x", "a", "-", "1", "é"] {
            let endless = endless.repeat(10 << 20);
            assert!(of(&endless).len() <= super::LONGEST);
        }
    }
}
