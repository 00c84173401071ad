//! Strings fit for every report: guests and tools may print anything at all.

use std::borrow::Cow;

/// What XML 1.0 can hold and a terminal shows as it is: ANSI escape sequences and illegal or
/// control characters are gone, line ends are `\n`.
pub fn clean(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        match c {
            '\u{1b}' => skip_escape(&mut chars),
            '\r' => {
                chars.next_if_eq(&'\n');
                out.push('\n');
            }
            '\t' | '\n' => out.push(c),
            '\u{fffe}' | '\u{ffff}' => {}
            c if c.is_control() => {}
            c => out.push(c),
        }
    }
    out
}

/// Passes over what follows ESC (ECMA-48). A sequence that is cut short ends with its line, so
/// that it cannot swallow the rest.
fn skip_escape(chars: &mut std::iter::Peekable<std::str::Chars>) {
    match chars.next_if(|c| matches!(c, ' '..='~')) {
        Some('[') => {
            while chars.next_if(|c| matches!(c, ' '..='?')).is_some() {}
            chars.next_if(|c| matches!(c, '@'..='~'));
        }
        // Strings (OSC, DCS, SOS, PM, APC): up to BEL or ESC \.
        Some(']' | 'P' | 'X' | '^' | '_') => {
            while chars
                .next_if(|c| !matches!(c, '\n' | '\r' | '\u{7}' | '\u{1b}'))
                .is_some()
            {}
            if chars.next_if_eq(&'\u{1b}').is_some() {
                chars.next_if_eq(&'\\');
            } else {
                chars.next_if_eq(&'\u{7}');
            }
        }
        Some(' '..='/') => {
            while chars.next_if(|c| matches!(c, ' '..='/')).is_some() {}
            chars.next_if(|c| matches!(c, '0'..='~'));
        }
        _ => {}
    }
}

/// What a guest said, to be shown among other lines: cleaned, each line with `prefix` before it, so that it is
/// taken for nothing else, whoever reads the log.
pub fn prefixed(prefix: &str, text: &str) -> String {
    let cleaned = clean(text.trim_end());
    let lines = cleaned.lines().map(|line| format!("{prefix}{line}"));
    lines.collect::<Vec<_>>().join("\n")
}

/// `text` in which nothing is a command to a pipeline that shows it in its log: neither GitHub's, `::name::` at the
/// beginning of a line or `##[name]` anywhere, nor the marks of GitLab's sections. A space takes their meaning away.
pub fn no_commands(text: &str) -> Cow<'_, str> {
    if !["::", "##[", "section_"]
        .iter()
        .any(|mark| text.contains(mark))
    {
        return text.into();
    }
    let mut out = String::with_capacity(text.len() + 16);
    let (mut rest, mut begins) = (text, true);
    while let Some(c) = rest.chars().next() {
        let mark = ["##[", "section_start:", "section_end:"]
            .iter()
            .find(|mark| rest.starts_with(**mark));
        let (taken, put) = match mark {
            Some(&"##[") => (3, "## ["),
            Some(&"section_start:") => (14, "section_start :"),
            Some(_) => (12, "section_end :"),
            None if begins && rest.starts_with("::") => (2, ": :"),
            None => (c.len_utf8(), &rest[..c.len_utf8()]),
        };
        out += put;
        rest = &rest[taken..];
        // GitHub's runner passes over white space before a command.
        begins = matches!(c, '\n' | '\r') || begins && c.is_whitespace();
    }
    out.into()
}

/// The last place of `text`, at most at `at`, where it may be cut.
pub fn floor(text: &str, at: usize) -> usize {
    let mut at = at.min(text.len());
    while !text.is_char_boundary(at) {
        at -= 1;
    }
    at
}

/// At most `most` bytes of it, and then how much is left out.
pub fn shortened(text: &str, most: usize) -> Cow<'_, str> {
    if text.len() <= most {
        return text.into();
    }
    let cut = floor(text, most);
    format!("{} … ({} bytes left out)", &text[..cut], text.len() - cut).into()
}

/// The first line that says something, its white space evened out.
pub fn first_line(text: &str) -> String {
    let line = text.lines().find(|line| !line.trim().is_empty());
    one_line(line.unwrap_or_default())
}

/// All of it on one line.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// `3.4 s`, `6 min 12 s`, `1 h 02 min`.
pub fn duration(seconds: f64) -> String {
    if seconds < 59.95 {
        return format!("{seconds:.1} s");
    }
    let whole = seconds.round() as u64;
    if whole < 3600 {
        format!("{} min {:02} s", whole / 60, whole % 60)
    } else {
        let minutes = (whole + 30) / 60;
        format!("{} h {:02} min", minutes / 60, minutes % 60)
    }
}

/// `2 of them `, or nothing where it is so of `all`.
pub fn of_them(n: usize, all: usize) -> String {
    match n == all {
        true => String::new(),
        false => format!("{n} of them "),
    }
}

/// `1 trial`, `2 trials`.
pub fn counted(n: usize, word: &str) -> String {
    let s = if n == 1 { "" } else { "s" };
    format!("{n} {word}{s}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_what_xml_can_hold_is_left() {
        let all: String = (char::MIN..=char::MAX).filter(|&c| c != '\u{1b}').collect();
        let cleaned = clean(&all);
        // https://www.w3.org/TR/xml/#charsets, less the control characters it merely discourages
        let legal = |c: char| {
            matches!(c, '\t' | '\n' | ' '..='~' | '\u{a0}'..='\u{d7ff}'
                | '\u{e000}'..='\u{fffd}' | '\u{10000}'..)
        };
        assert_eq!(cleaned.chars().find(|&c| !legal(c)), None);
        let lost = all.chars().filter(|&c| legal(c)).count() + 1 - cleaned.chars().count();
        assert_eq!(lost, 0, "beside \\r, which becomes \\n");
    }

    #[test]
    fn escape_sequences_go_and_take_nothing_with_them() {
        for (raw, expected) in [
            ("\u{1b}[1;31mred\u{1b}[0m.", "red."),
            ("\u{1b}[2J\u{1b}[01;01HSeaBIOS", "SeaBIOS"),
            ("\u{1b}]0;title\u{7}a", "a"),
            ("\u{1b}]8;;http://x\u{1b}\\b", "b"),
            ("\u{1b}(Bc", "c"),
            ("\u{1b}Md", "d"),
            ("\u{1b}]cut\nnext", "\nnext"),
            ("\u{1b}[1;3\nnext", "\nnext"),
            ("\u{1b}\nnext", "\nnext"),
            ("end\u{1b}", "end"),
            ("a\u{1b}[é", "aé"),
            ("one\r\ntwo\rthree", "one\ntwo\nthree"),
        ] {
            assert_eq!(clean(raw), expected, "{raw:?}");
        }
    }

    #[test]
    fn nothing_that_a_guest_says_is_a_command_to_a_pipeline() {
        for (said, shown) in [
            ("::error::owned", ": :error::owned"),
            (
                "a\n \t\u{3000}::add-mask::x",
                "a\n \t\u{3000}: :add-mask::x",
            ),
            ("a\r::stop-commands::t", "a\r: :stop-commands::t"),
            (":::error::", ": ::error::"),
            ("a ##[error]b ###[group]", "a ## [error]b ### [group]"),
            (
                "x section_start:1:a[collapsed=true]\r\u{1b}[0K",
                "x section_start :1:a[collapsed=true]\r\u{1b}[0K",
            ),
            ("section_end:1:a", "section_end :1:a"),
            ("driver::e1000::rhel9::tap", "driver::e1000::rhel9::tap"),
            ("é::é\n", "é::é\n"),
        ] {
            assert_eq!(no_commands(said), shown, "{said:?}");
            assert_eq!(no_commands(&no_commands(said)), shown, "again {said:?}");
        }
    }

    #[test]
    fn what_a_guest_said_stands_behind_its_prefix() {
        assert_eq!(
            prefixed("| ", "::error::a\r\n\n\u{1b}]0;title\u{7}b\r::group::\n"),
            "| ::error::a\n| \n| b\n| ::group::"
        );
    }

    #[test]
    fn what_is_cut_says_so() {
        assert_eq!(shortened("éé", 4), "éé");
        assert_eq!(shortened("éé", 3), "é … (2 bytes left out)");
    }

    #[test]
    fn first_lines_are_single() {
        assert_eq!(first_line("\n  lost 3\tof 10 \nfacts"), "lost 3 of 10");
        assert_eq!(first_line(""), "");
    }

    #[test]
    fn durations_read_well() {
        let read: Vec<_> = [0.0, 3.44, 59.94, 59.96, 372.0, 3599.6, 3720.0]
            .map(duration)
            .into();
        assert_eq!(
            read,
            [
                "0.0 s",
                "3.4 s",
                "59.9 s",
                "1 min 00 s",
                "6 min 12 s",
                "1 h 00 min",
                "1 h 02 min"
            ]
        );
    }
}
