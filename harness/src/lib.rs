//! nicmatrix: regression tests for QEMU/KVM virtual NICs on real VMs.
//!
//! ```text
//! matrix.toml ─ matrix/ ─> cells ─┐
//!                                 ├─ plan ─> trials ─> libtest-mimic ─> testbed ─> case ─> outcome
//! host/ (what can run here) ──────┘                                                    │
//! cases/ (the plan's procedures)                      report  <─ events.jsonl <─ run/ ─┘
//! ```
//!
//! Modules are floors: each uses those above it in this table, and none below it (`tests/floors.rs`
//! holds that).
//!
//! | floor | holds |
//! | --- | --- |
//! | [`base`] | errors, deadlines, child processes, slots, artifacts, words |
//! | [`debian`] | packages of Debian, fetched by apt and unpacked |
//! | [`matrix`] | `matrix.toml`: schema, expansion into cells, names; the data of every axis |
//! | [`settings`] | what the user set |
//! | [`net`] | namespace, bridge, taps, DHCP, ping, capture, transfer |
//! | [`vm`] | QEMU: accelerator, command line, process, QMP, serial console, checkpoints |
//! | [`guest`] | image, agent, dialect, a NIC as the guest sees it |
//! | [`host`] | what can run here: accelerator, the QEMU's and the kernel's facts, vhost |
//! | [`testbed`] | what one trial is handed: network, VM, guest |
//! | [`cases`] | the test plan's procedures, one file a family |
//! | [`plan`] | cases × cells → trials, each to run or to skip with a reason |
//! | [`lab`] | the disposable host for trials whose backend this kernel does not have |
//! | [`run`] | session, schedule, trials, outcomes |
//! | [`inside`] | the harness inside a lab |
//! | [`show`] | lists, explanations, what this host can do |
//! | [`entry`] | what this process is |
//!
//! Everything up to the testbed is tested without a VM where it is pure; the crate `report` makes all
//! reports, from events alone.

pub mod base;
pub mod cases;
pub mod debian;
pub mod entry;
pub mod guest;
pub mod host;
pub mod inside;
pub mod lab;
pub mod matrix;
pub mod net;
pub mod plan;
pub mod run;
pub mod settings;
pub mod show;
pub mod testbed;
pub mod vm;
