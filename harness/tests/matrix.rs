//! The matrix as a libtest-compatible test binary: `cargo test`, `cargo nextest` and
//! `cargo xtask matrix` all run this one.

fn main() -> std::process::ExitCode {
    harness::entry::main(harness::run::main)
}
