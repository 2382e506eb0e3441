//! What was read of the catalogue, kept in memory: registry answers as they are sent, and what servers require.
//!
//! PostgreSQL is the truth; a value is kept until the catalogue changes anywhere, which [`Kept::forget`] is told. Values
//! belong to the generation in which they began to be made, so one that is overtaken by a change is never given after it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use moka::future::Cache;
use platform::http::Answer;

/// The values in memory.
pub(crate) struct Kept<V> {
    values: Cache<(u64, String), Arc<V>>,
    generation: AtomicU64,
}

/// What a value takes, in bytes.
pub(crate) trait Weigh {
    fn weight(&self) -> usize;
}

impl Weigh for Answer {
    fn weight(&self) -> usize {
        Self::weight(self)
    }
}

impl Weigh for Vec<String> {
    fn weight(&self) -> usize {
        size_of::<Self>() + self.iter().map(|text| size_of::<String>() + text.len()).sum::<usize>()
    }
}

impl<V: Weigh + Send + Sync + 'static> Kept<V> {
    /// Holds values of up to `bytes` altogether.
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |key: &(u64, String), value: &Arc<V>| u32::try_from(value.weight() + key.1.len()).unwrap_or(u32::MAX);
        Self { values: Cache::builder().max_capacity(bytes).weigher(weigh).build(), generation: AtomicU64::default() }
    }

    /// The value under `key`, made if it is not there; requests for the same one wait for each other.
    pub(crate) async fn get<E, F>(&self, key: String, make: F) -> Result<Arc<V>, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: Future<Output = Result<V, E>>,
    {
        let key = (self.generation.load(Ordering::Acquire), key);
        if let Some(value) = self.values.get(&key).await {
            return Ok(value);
        }
        self.values.try_get_with(key, async { Ok(Arc::new(make.await?)) }).await
    }

    /// The catalogue changed.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.values.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_value_that_a_change_overtook_is_not_kept() {
        let kept = Kept::new(1 << 20);
        let of = |text: &str| vec![text.to_owned()];
        let old = kept.get("k".into(), async {
            kept.forget();
            Ok::<_, ()>(of("old"))
        });
        assert_eq!(*old.await.unwrap(), of("old"));
        let new = kept.get("k".into(), async { Ok::<_, ()>(of("new")) }).await.unwrap();
        assert_eq!(*new, of("new"));
        let again = kept.get("k".into(), async { Ok::<_, ()>(of("never")) }).await.unwrap();
        assert_eq!(*again, of("new"));
    }
}
