/// What can go wrong below the protocols. Cryptographic failure is one variant that says nothing more.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A tag, signature, key or shared secret was not good.
    #[error("cryptographic check failed")]
    Failed,
    /// The operating system gave no randomness.
    #[error("no randomness from the operating system")]
    Random,
    /// The memory that was asked for is not to be had.
    #[error("not enough memory")]
    Memory,
    /// A component name, kind or encoded identity breaks `docs/spec/channel.md`, Identities.
    #[error("not a valid identity: {0}")]
    Identity(&'static str),
    /// The text form of a key or fingerprint does not parse.
    #[error("not a valid {0}")]
    Text(&'static str),
}
