use std::fmt;

use platform::keys::SecretKey;
use ring::signature::{ED25519, Ed25519KeyPair, KeyPair as _, UnparsedPublicKey};

/// What the trail is authenticated with; derived from the fabric's instance secret, which the vault keeps,
/// so that whoever can write to the database alone can forge neither events nor checkpoints.
#[derive(Clone)]
pub struct AuditKeys {
    mac: SecretKey,
    seed: SecretKey,
    public: [u8; 32],
}

impl fmt::Debug for AuditKeys {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("AuditKeys").field("public", &platform::random::hex(&self.public)).finish_non_exhaustive()
    }
}

impl AuditKeys {
    /// The keys of the fabric with this secret.
    pub fn derive(instance_secret: &SecretKey) -> Self {
        let seed = instance_secret.derive(b"mcp-fabric", "audit-sign");
        let mut public = [0; 32];
        public.copy_from_slice(pair(&seed).public_key().as_ref());
        Self { mac: instance_secret.derive(b"mcp-fabric", "audit-mac"), seed, public }
    }

    /// Checks signatures.
    pub fn public(&self) -> [u8; 32] {
        self.public
    }

    pub(crate) fn sign(&self, text: &[u8]) -> [u8; 64] {
        let mut out = [0; 64];
        out.copy_from_slice(pair(&self.seed).sign(text).as_ref());
        out
    }

    pub(crate) fn mac(&self, parts: &[&[u8]]) -> [u8; 32] {
        self.mac.mac(parts)
    }

    pub(crate) fn verify_mac(&self, parts: &[&[u8]], tag: &[u8]) -> bool {
        self.mac.verify(parts, tag)
    }
}

#[expect(clippy::expect_used, reason = "every 32 bytes are a seed of Ed25519")]
fn pair(seed: &SecretKey) -> Ed25519KeyPair {
    Ed25519KeyPair::from_seed_unchecked(seed.expose()).expect("32 bytes are a seed")
}

/// Whether `signature` is that of `text` by the holder of `public` (Ed25519, RFC 8032).
pub(crate) fn is_signed(public: &[u8; 32], text: &[u8], signature: &[u8]) -> bool {
    UnparsedPublicKey::new(&ED25519, public).verify(text, signature).is_ok()
}
