//! Failed logins, counted by account and by address: five of an account lock it for a quarter of an hour, and each
//! further five for twice as long as before. Addresses that belong to no account count like others, so that a lock
//! tells nothing.

use std::net::{IpAddr, Ipv6Addr};

use chrono::{DateTime, TimeDelta, Utc};
use platform::{database::DbError, keys::SecretKey};
use sqlx::PgConnection;

use crate::{email::Email, store::failures};

/// A count begins anew when nothing has failed for so long.
const WINDOW: TimeDelta = TimeDelta::minutes(15);
/// The first lock; it doubles.
const FIRST_LOCK: TimeDelta = TimeDelta::minutes(15);
const LONGEST_LOCK: TimeDelta = TimeDelta::hours(24);
/// Failures of one account before it is locked.
const PER_ACCOUNT: i32 = 5;
/// Failures of one address, which many people may share.
const PER_ADDRESS: i32 = 50;

/// Under which keys the failures of one attempt are counted.
pub(crate) struct Keys {
    account: [u8; 32],
    address: Option<[u8; 32]>,
}

impl Keys {
    /// Of a login with this email from this address.
    pub(crate) fn of(secret: &SecretKey, email: &Email, address: Option<IpAddr>) -> Self {
        let address = address.map(|address| match address {
            IpAddr::V4(_) => address.to_string(),
            // A host of IPv6 has a whole /64.
            IpAddr::V6(v6) => Ipv6Addr::from_bits(v6.to_bits() & !u128::from(u64::MAX)).to_string(),
        });
        Self {
            account: secret.mac(&[b"account", &[0], email.as_str().as_bytes()]),
            address: address.map(|address| secret.mac(&[b"address", &[0], address.as_bytes()])),
        }
    }

    /// Whether the account or the address is locked.
    pub(crate) async fn are_locked(&self, connection: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, DbError> {
        let keys: Vec<Vec<u8>> = [Some(self.account), self.address].into_iter().flatten().map(Into::into).collect();
        failures::is_locked(connection, &keys, now).await
    }

    /// Counts a failure; tells whether it locked the account.
    pub(crate) async fn count(&self, connection: &mut PgConnection, now: DateTime<Utc>) -> Result<bool, DbError> {
        let mut locked = false;
        for (key, most) in [(Some(self.account), PER_ACCOUNT), (self.address, PER_ADDRESS)] {
            let Some(key) = key else { continue };
            let Some(count) = failures::count(connection, &key, now, now - WINDOW).await? else { continue };
            if let Some(lock) = lock_after(count, most) {
                failures::lock(connection, &key, now + lock).await?;
                locked |= key == self.account;
            }
        }
        Ok(locked)
    }

    /// Forgets the failures of the account, after a login.
    pub(crate) async fn clear(&self, connection: &mut PgConnection) -> Result<(), DbError> {
        failures::clear(connection, &self.account).await
    }
}

/// The lock that the `count`th failure brings, when every `most`th does.
fn lock_after(count: i32, most: i32) -> Option<TimeDelta> {
    (count > 0 && count % most == 0).then(|| {
        let doublings = (count / most - 1).clamp(0, 10);
        (FIRST_LOCK * (1 << doublings)).min(LONGEST_LOCK)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_lock_is_twice_as_long_up_to_a_day() {
        let minutes = |count| lock_after(count, 5).map(|lock| lock.num_minutes());
        assert_eq!([1, 4, 5, 6, 10, 15, 20].map(minutes), [None, None, Some(15), None, Some(30), Some(60), Some(120)]);
        assert_eq!(minutes(5000), Some(24 * 60));
    }

    #[test]
    fn a_network_of_ipv6_is_one_address() {
        let (secret, email) = (SecretKey::generate(), Email::parse("ada@example.com").unwrap());
        let key = |address: &str| Keys::of(&secret, &email, Some(address.parse().unwrap())).address;
        assert_eq!(key("2001:db8::1"), key("2001:db8::ffff:2"));
        assert_ne!(key("2001:db8::1"), key("2001:db8:0:1::1"));
        assert_ne!(key("10.0.0.1"), key("10.0.0.2"));
    }
}
