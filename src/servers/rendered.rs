//! Registry answers kept in memory as they are sent.
//!
//! PostgreSQL is the truth; an answer is kept until the catalogue changes anywhere, which
//! [`Rendered::forget`] is told. Answers belong to the generation in which their rendering began, so
//! one that is overtaken by a change is never served after it.

use std::{
    future::Future,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
};

use moka::future::Cache;
use platform::http::Answer;

/// The answers in memory.
pub(crate) struct Rendered {
    answers: Cache<(u64, String), Arc<Answer>>,
    generation: AtomicU64,
}

impl Rendered {
    /// Holds answers of up to `bytes` altogether.
    pub(crate) fn new(bytes: u64) -> Self {
        let weigh = |key: &(u64, String), answer: &Arc<Answer>| u32::try_from(answer.weight() + key.1.len()).unwrap_or(u32::MAX);
        Self { answers: Cache::builder().max_capacity(bytes).weigher(weigh).build(), generation: AtomicU64::default() }
    }

    /// The answer under `key`, rendered if it is not there; requests for the same one wait for each other.
    pub(crate) async fn get<E, F>(&self, key: String, render: F) -> Result<Arc<Answer>, Arc<E>>
    where
        E: Send + Sync + 'static,
        F: Future<Output = Result<String, E>>,
    {
        let key = (self.generation.load(Ordering::Acquire), key);
        if let Some(answer) = self.answers.get(&key).await {
            return Ok(answer);
        }
        self.answers.try_get_with(key, async { Ok(Arc::new(Answer::new("application/json", render.await?))) }).await
    }

    /// The catalogue changed.
    pub(crate) fn forget(&self) {
        self.generation.fetch_add(1, Ordering::AcqRel);
        self.answers.invalidate_all();
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn an_answer_that_a_change_overtook_is_not_kept() {
        let rendered = Rendered::new(1 << 20);
        let old = rendered.get("k".into(), async {
            rendered.forget();
            Ok::<_, ()>("old".into())
        });
        assert_eq!(&old.await.unwrap().body()[..], b"old");
        let new = rendered.get("k".into(), async { Ok::<_, ()>("new".into()) }).await.unwrap();
        assert_eq!(&new.body()[..], b"new");
        let kept = rendered.get("k".into(), async { Ok::<_, ()>("never".into()) }).await.unwrap();
        assert_eq!(&kept.body()[..], b"new");
    }
}
