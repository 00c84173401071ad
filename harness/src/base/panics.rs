//! What a panic said.

use std::any::Any;

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
