//! nicmatrix: regression tests for QEMU/KVM virtual NICs on real VMs.
//!
//! ```text
//! matrix.toml ─ matrix/ ─> cells ─┐
//!                                 ├─ plan ─> trials ─> libtest-mimic ─> testbed ─> case ─> outcome
//! host/ (what can run here) ──────┘                                                    │
//! cases/ (the plan's procedures)                      report/ <─ events.jsonl <─ run/ ─┘
//! ```
//!
//! Everything left of the testbed is pure and is tested without a VM; reports read events only.
//!
//! | module | holds |
//! | --- | --- |
//! | [`matrix`] | `matrix.toml`: schema, expansion into cells, names |
//! | [`host`] | what can run here: accelerator, QEMU's devices, vhost, speed |
//! | [`plan`] | cases × cells → trials, each run or skip with a reason |
//! | [`list`], [`explain`] | the planned trials, as text or JSON; one of them in full |
//! | [`json`] | small files that several processes share |
//! | [`cache`] | what is saved, as text |
//! | [`measure`] | how long guests take to be there |
//! | [`cases`] | the test plan's procedures, one file a family |
//! | [`testbed`] | what one trial is handed: network, VM, guest |
//! | [`vm`] | QEMU: command line, process, QMP, serial console |
//! | [`guest`] | image, agent, dialect, a NIC as the guest sees it |
//! | [`net`] | namespace, bridge, taps, DHCP, ping, capture, transfer |
//! | [`lab`] | the disposable host for trials whose backend this kernel does not have |
//! | [`entry`] | what this process is |
//! | [`run`] | the harness: settings, schedule, events, deadlines, outcomes |
//! | [`report`] | JUnit, terminal and Markdown summary, from events |

pub mod cache;
pub mod cases;
pub mod doctor;
pub mod entry;
pub mod error;
pub mod explain;
pub mod guest;
pub mod host;
pub mod json;
pub mod lab;
pub mod list;
pub mod matrix;
pub mod measure;
pub mod net;
pub mod plan;
pub mod run;
pub mod testbed;
pub mod vm;
