//! Identifiers of our own: a `UUIDv7` newtype for each kind of row, so that two kinds cannot be swapped.

use uuid::Uuid;

/// A fresh, time-ordered identifier (RFC 9562 version 7).
#[expect(clippy::disallowed_methods, reason = "this is the door")]
pub fn fresh() -> Uuid {
    Uuid::now_v7()
}

/// Declares a `UUIDv7` newtype: `id! { /// docs \n pub struct JobId; }`.
#[macro_export]
macro_rules! id {
    ($(#[$meta:meta])* pub struct $name:ident;) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
            $crate::ids::reexport::Serialize, $crate::ids::reexport::Deserialize,
            $crate::ids::reexport::ToSchema,
        )]
        #[serde(crate = "platform::ids::reexport::serde", transparent)]
        #[schema(value_type = $crate::ids::reexport::Uuid)]
        pub struct $name(pub $crate::ids::reexport::Uuid);

        impl $name {
            /// A fresh, time-ordered identifier.
            pub fn fresh() -> Self {
                Self($crate::ids::fresh())
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                self.0.fmt(f)
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::ids::reexport::UuidError;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                text.parse().map(Self)
            }
        }
    };
}

/// What the `id!` macro needs in the crates that use it.
#[doc(hidden)]
pub mod reexport {
    pub use serde::{self, Deserialize, Serialize};
    pub use utoipa::ToSchema;
    pub use uuid::{Error as UuidError, Uuid};
}
