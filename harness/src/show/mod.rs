//! What `nicmatrix` shows without running trials: lists, explanations, what this host can do.

pub mod cache;
pub mod doctor;
pub mod explain;
pub mod lab;
pub mod list;
pub mod measure;
pub mod plan_items;
