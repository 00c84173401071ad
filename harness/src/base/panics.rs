//! What a panic said.

use report::errln;
use std::any::Any;
use std::panic::PanicHookInfo;

/// Has panics told on stderr as any other line: the standard library would print a message as it is, which may quote
/// a guest, and panic again where stderr is closed.
pub fn tell() {
    std::panic::set_hook(Box::new(|panic: &PanicHookInfo| {
        let thread = std::thread::current();
        let name = thread.name().unwrap_or("(no name)").to_owned();
        let place = panic.location().map(ToString::to_string);
        errln!(
            "thread '{name}' panicked at {}:\n{}",
            place.unwrap_or_default(),
            words(panic.payload())
        );
    }));
}

/// The words of a panic that was caught.
pub fn words(panic: &(dyn Any + Send)) -> &str {
    panic
        .downcast_ref::<String>()
        .map(String::as_str)
        .or_else(|| panic.downcast_ref::<&str>().copied())
        .unwrap_or("(no message)")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn both_kinds_of_messages_are_read_and_others_have_none() {
        let caught = |panics: fn()| std::panic::catch_unwind(panics).expect_err("it panics");
        let said = |panics| words(&*caught(panics)).to_owned();
        assert_eq!(said(|| panic!("plain")), "plain");
        assert_eq!(said(|| panic!("{} of {}", 1, 2)), "1 of 2");
        assert_eq!(said(|| std::panic::panic_any(7)), "(no message)");
    }
}
