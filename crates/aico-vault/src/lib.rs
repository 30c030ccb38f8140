//! Data at rest.

mod error;

pub use error::Error;
