//! The guest's side: its image, the agent in it, and the words it understands.
pub mod dialect;
pub mod image;
