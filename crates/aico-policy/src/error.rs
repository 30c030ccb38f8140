/// Why a grant or a path is refused. A denial is not an error: it is a [`crate::Decision`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[non_exhaustive]
pub enum Error {
    /// A grant's signature does not hold, or it was signed by somebody else.
    #[error("the grant's signature does not hold")]
    GrantSignature,
    /// A grant's bytes are not a grant.
    #[error("not a grant: {0}")]
    GrantForm(&'static str),
    /// A path breaks the rules of `docs/spec/requests.md`, Paths.
    #[error("not a valid path: {0}")]
    Path(&'static str),
}
