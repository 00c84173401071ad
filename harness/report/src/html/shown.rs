//! Text of guests and files on the page: escaped, clean, its invisible characters made visible, its length
//! bounded.

use crate::text::{clean, floor};
use maud::{Escaper, Render};
use std::borrow::Cow;
use std::fmt::Write;

/// Text that anyone may have written, as text. Characters that are not seen or that turn the order of others
/// around are shown by their code.
pub struct Shown<'t>(pub &'t str);

impl Render for Shown<'_> {
    fn render_to(&self, buffer: &mut String) {
        let text = clean(self.0);
        let mut rest = text.as_str();
        while let Some(at) = rest.find(is_hidden) {
            let hidden = rest[at..].chars().next().unwrap_or_default();
            // Writing to a string cannot fail.
            let _ = Escaper::new(buffer).write_str(&rest[..at]);
            let _ = write!(buffer, "<span class=\"code-point\">{}</span>", name(hidden));
            rest = &rest[at + hidden.len_utf8()..];
        }
        let _ = Escaper::new(buffer).write_str(rest);
    }
}

/// The same for an attribute, which takes no markup.
pub fn plain(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for c in clean(text).chars() {
        match is_hidden(c) {
            true => out += &name(c),
            false => out.push(c),
        }
    }
    out
}

/// Marks of direction, joiners, tags and separators that a browser does not draw or follows (Unicode's
/// Default_Ignorable_Code_Point and Bidi_Control, as far as text can come to have them).
fn is_hidden(c: char) -> bool {
    matches!(c, '\u{ad}' | '\u{61c}' | '\u{180e}' | '\u{200b}'..='\u{200f}' | '\u{2028}'..='\u{202e}'
        | '\u{2060}'..='\u{206f}' | '\u{feff}' | '\u{fff9}'..='\u{fffb}' | '\u{e0000}'..='\u{e0fff}')
}

fn name(c: char) -> String {
    format!("U+{:04X}", c as u32)
}

/// Characters of one line that are shown.
const LINE: usize = 2000;

/// Cuts long lines, and all that goes beyond `limit` bytes, and says how much it left out.
pub fn bounded(text: &str, limit: usize) -> Cow<'_, str> {
    if text.len() <= limit && text.lines().all(|line| line.len() <= LINE) {
        return Cow::Borrowed(text);
    }
    let mut out = String::new();
    for line in text.split_inclusive('\n') {
        if out.len() >= limit {
            let left = text.len() - (line.as_ptr() as usize - text.as_ptr() as usize);
            out += &format!("… {} more left out", bytes(left as u64));
            break;
        }
        let end = floor(line, LINE);
        out += &line[..end];
        if end < line.trim_end().len() {
            let left = bytes((line.len() - end) as u64);
            out += &format!(" … {left} more of this line left out\n");
        } else {
            out += &line[end..];
        }
    }
    Cow::Owned(out)
}

/// "512 bytes", "9.9 MiB".
pub fn bytes(n: u64) -> String {
    let n_float = n as f64;
    match n {
        0..1024 => format!("{n} bytes"),
        1024..1_048_576 => format!("{:.1} KiB", n_float / 1024.0),
        _ => format!("{:.1} MiB", n_float / 1_048_576.0),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn shown(text: &str) -> String {
        Shown(text).render().into_string()
    }

    #[test]
    fn nothing_is_markup() {
        assert_eq!(
            shown("</script><img src=x onerror=\"a\">&amp;"),
            "&lt;/script&gt;&lt;img src=x onerror=&quot;a&quot;&gt;&amp;amp;"
        );
        assert_eq!(shown("\u{1b}[31mred\u{1b}[0m\u{7}"), "red");
    }

    #[test]
    fn what_is_not_seen_is_named() {
        let rtl = "a\u{202e}gnp.exe\u{2066}é";
        assert_eq!(
            shown(rtl),
            "a<span class=\"code-point\">U+202E</span>gnp.exe<span class=\"code-point\">U+2066</span>é"
        );
        assert_eq!(plain(rtl), "aU+202Egnp.exeU+2066é");
    }

    #[test]
    fn long_lines_and_texts_are_cut_and_say_so() {
        assert_eq!(bounded("short\nlines\n", 100), "short\nlines\n");
        let long = format!("{}\nnext\n", "é".repeat(3000));
        let cut = bounded(&long, 10_000);
        assert_eq!(
            cut,
            format!(
                "{} … 3.9 KiB more of this line left out\nnext\n",
                "é".repeat(1000)
            )
        );
        let many = "line\n".repeat(100);
        assert_eq!(bounded(&many, 8), "line\nline\n… 490 bytes more left out");
    }
}
