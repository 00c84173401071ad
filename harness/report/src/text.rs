//! Strings fit for every report: guests and tools may print anything at all.

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
