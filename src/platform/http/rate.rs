//! Requests a second from one address or one actor.

use std::{
    net::{IpAddr, Ipv6Addr},
    num::NonZeroU32,
    sync::atomic::{AtomicU32, Ordering},
    time::Duration,
};

use governor::{DefaultKeyedRateLimiter, Quota, RateLimiter, clock::Clock as _};

use crate::problem::{Class, Problem};

/// Whose requests are counted together.
#[derive(Clone, PartialEq, Eq, Hash)]
pub(super) enum Key {
    Address(IpAddr),
    Actor(String),
}

impl Key {
    /// An IPv6 host has a whole /64 to call from, so that counts as one address.
    pub(super) fn of_address(address: IpAddr) -> Self {
        Self::Address(match address {
            IpAddr::V4(_) => address,
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).into(),
        })
    }
}

pub(super) struct Limiter {
    limiter: DefaultKeyedRateLimiter<Key>,
    checks: AtomicU32,
}

/// After so many checks, keys that have been quiet are forgotten.
const FORGET_EVERY: u32 = 8192;
const BURST_SECONDS: u32 = 4;

impl Limiter {
    pub(super) fn new(per_second: u32) -> Option<Self> {
        let quota = Quota::per_second(NonZeroU32::new(per_second)?).allow_burst(NonZeroU32::new(per_second.saturating_mul(BURST_SECONDS))?);
        Some(Self { limiter: RateLimiter::keyed(quota), checks: AtomicU32::new(0) })
    }

    pub(super) fn check(&self, key: &Key) -> Result<(), Problem> {
        if self.checks.fetch_add(1, Ordering::Relaxed) % FORGET_EVERY == FORGET_EVERY - 1 {
            self.limiter.retain_recent();
        }
        self.limiter.check_key(key).map_err(|until| {
            let wait = until.wait_time_from(self.limiter.clock().now());
            let mut problem = Problem::new(Class::TooMany, "too_many_requests", "too many requests; wait before the next one");
            problem.retry_after = Some(wait.max(Duration::from_secs(1)));
            problem
        })
    }
}
