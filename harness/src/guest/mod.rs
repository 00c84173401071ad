//! The guest's side: its image, the agent in it, and the words it understands.

pub mod agent;
pub mod dialect;
pub mod image;
pub mod link;
