//! The revisions of the protocol that clients may speak.

platform::words! {
    /// A revision of the Model Context Protocol.
    pub enum Revision {
        /// The first one; spoken over streamable HTTP by clients that offer nothing newer.
        First = "2024-11-05",
        /// Streamable HTTP, batches.
        Batches = "2025-03-26",
        /// The version in a header.
        Headers = "2025-06-18",
        /// The last one with a handshake.
        Polling = "2025-11-25",
        /// Without sessions.
        Modern = "2026-07-28",
    }
}

/// The newest with a handshake: offered to clients that ask for what is not known.
pub(crate) const NEWEST_LEGACY: Revision = Revision::Polling;

/// What `server/discover` and refusals list, newest first.
pub(crate) const ALL: [Revision; 5] = [Revision::Modern, Revision::Polling, Revision::Headers, Revision::Batches, Revision::First];
