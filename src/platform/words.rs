//! Closed lists of words: an enum that rows, clients and code write the same way.

/// Not a word of the list.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("is not one of the words of this list")]
pub struct UnknownWord;

/// Declares an enum whose variants are words: `words! { /// docs \n pub enum Status { /// docs \n Active = "active" } }`.
/// It has `as_str`, `FromStr`, `Display`, serde and an OpenAPI schema.
#[macro_export]
macro_rules! words {
    ($(#[$meta:meta])* pub enum $name:ident { $($(#[$doc:meta])* $variant:ident = $word:literal),* $(,)? }) => {
        $(#[$meta])*
        #[derive(
            Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord,
            $crate::ids::reexport::Serialize, $crate::ids::reexport::Deserialize, $crate::ids::reexport::ToSchema,
        )]
        #[serde(crate = "platform::ids::reexport::serde")]
        pub enum $name {
            $($(#[$doc])* #[serde(rename = $word)] $variant,)*
        }

        impl $name {
            /// The word, as rows and clients write it.
            pub fn as_str(self) -> &'static str {
                match self {
                    $(Self::$variant => $word,)*
                }
            }
        }

        impl std::fmt::Display for $name {
            fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
                f.write_str(self.as_str())
            }
        }

        impl std::str::FromStr for $name {
            type Err = $crate::words::UnknownWord;
            fn from_str(text: &str) -> Result<Self, Self::Err> {
                match text {
                    $($word => Ok(Self::$variant),)*
                    _ => Err($crate::words::UnknownWord),
                }
            }
        }
    };
}
