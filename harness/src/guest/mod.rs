//! The guest's side: its image, the agent in it, and the words it understands.

pub mod agent;
pub mod dialect;
mod ended;
pub mod image;
pub mod interrupts;
pub mod link;
pub mod netcat;
pub mod network_manager;
pub mod pci_config;
pub mod xdp;
