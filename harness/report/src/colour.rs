//! Whether output is coloured, as the user's variables say.

use std::io::IsTerminal;

/// Whether what goes to `stream` is coloured: on a terminal that takes it, unless `NO_COLOR` is set
/// (no-color.org); anywhere where `CLICOLOR_FORCE` is set (bixense.com/clicolors).
pub fn wanted(stream: &impl IsTerminal) -> bool {
    of(stream.is_terminal(), |name| {
        let value = std::env::var_os(name)?;
        Some(value.to_string_lossy().into_owned())
    })
}

fn of(is_terminal: bool, variable: impl Fn(&str) -> Option<String>) -> bool {
    let is_set = |name| variable(name).is_some_and(|value| !value.is_empty());
    let is_zero = |name| variable(name).as_deref() == Some("0");
    if is_set("NO_COLOR") {
        return false;
    }
    if is_set("CLICOLOR_FORCE") && !is_zero("CLICOLOR_FORCE") {
        return true;
    }
    is_terminal && !is_zero("CLICOLOR") && variable("TERM").as_deref() != Some("dumb")
}

#[cfg(test)]
mod tests {
    #[test]
    fn the_users_variables_are_heeded() {
        let of = |is_terminal, variables: &[(&str, &str)]| {
            super::of(is_terminal, |asked| {
                let found = variables.iter().find(|(name, _)| *name == asked)?;
                Some(found.1.to_owned())
            })
        };
        assert!(of(true, &[]) && of(true, &[("TERM", "xterm"), ("NO_COLOR", "")]));
        assert!(!of(false, &[("TERM", "xterm")]));
        assert!(!of(true, &[("NO_COLOR", "1")]));
        assert!(!of(true, &[("TERM", "dumb")]));
        assert!(!of(true, &[("CLICOLOR", "0")]));
        assert!(of(false, &[("CLICOLOR_FORCE", "1"), ("TERM", "dumb")]));
        assert!(!of(false, &[("CLICOLOR_FORCE", "0")]));
        assert!(!of(true, &[("CLICOLOR_FORCE", "1"), ("NO_COLOR", "1")]));
    }
}
