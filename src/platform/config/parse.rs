//! From the text of a setting to its type, with the sentence that a wrong one deserves.

use std::{net::SocketAddr, path::PathBuf, str::FromStr, time::Duration};

use ipnet::IpNet;
use secrecy::SecretString;
use url::Url;

use super::LogFormat;

/// A type that a setting can have; the error never quotes the value.
pub(super) trait FromSetting: Sized {
    fn from_setting(text: &str) -> Result<Self, String>;
}

fn parse<T: FromStr>(text: &str, what: &str) -> Result<T, String> {
    text.parse().map_err(|_| format!("is not {what}"))
}

macro_rules! plain {
    ($($type:ty => $what:literal),* $(,)?) => {
        $(impl FromSetting for $type {
            fn from_setting(text: &str) -> Result<Self, String> {
                parse(text, $what)
            }
        })*
    };
}

plain! {
    u16 => "a port, 1 to 65535",
    u32 => "a whole number",
    SocketAddr => "an address with a port, such as 127.0.0.1:8085",
    PathBuf => "a path",
    String => "text",
}

impl FromSetting for bool {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.to_ascii_lowercase().as_str() {
            "true" | "1" | "yes" | "on" => Ok(true),
            "false" | "0" | "no" | "off" => Ok(false),
            _ => Err("is neither true nor false".into()),
        }
    }
}

impl FromSetting for Url {
    fn from_setting(text: &str) -> Result<Self, String> {
        let url: Self = parse(text.trim_end_matches('/'), "an absolute URL")?;
        if matches!(url.scheme(), "http" | "https") { Ok(url) } else { Err("is not an http or https URL".into()) }
    }
}

impl FromSetting for IpNet {
    fn from_setting(text: &str) -> Result<Self, String> {
        text.parse::<std::net::IpAddr>()
            .map(Self::from)
            .or_else(|_| text.parse())
            .map_err(|_| "is not a list of addresses or networks, such as 10.0.0.1,10.1.0.0/16".into())
    }
}

impl FromSetting for SecretString {
    fn from_setting(text: &str) -> Result<Self, String> {
        Ok(text.into())
    }
}

impl FromSetting for LogFormat {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text {
            "auto" => Ok(Self::Auto),
            "pretty" => Ok(Self::Pretty),
            "json" => Ok(Self::Json),
            _ => Err("is none of auto, pretty, json".into()),
        }
    }
}

pub(super) struct Positive(pub(super) f64);

impl FromSetting for Positive {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(value) if (0.001..1e9).contains(&value) => Ok(Self(value)),
            _ => Err("is not a number of 0.001 or more".into()),
        }
    }
}

/// From 0 to a million: what memory and processes can be reckoned with.
pub(super) struct Bounded(pub(super) u32);

impl FromSetting for Bounded {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 0..=1_000_000) => Ok(Self(count)),
            _ => Err("is not a whole number up to 1000000".into()),
        }
    }
}

/// From 1 to 1000.
pub(super) struct Count(pub(super) u32);

impl FromSetting for Count {
    fn from_setting(text: &str) -> Result<Self, String> {
        match text.parse() {
            Ok(count @ 1..=1000) => Ok(Self(count)),
            _ => Err("is not a whole number from 1 to 1000".into()),
        }
    }
}

/// At most ten years, so that sums with it stay in range.
fn duration(text: &str, unit: u64, what: &str) -> Result<Duration, String> {
    match text.parse::<u64>() {
        Ok(value) if value.saturating_mul(unit) <= 315_360_000_000 => Ok(Duration::from_millis(value * unit)),
        _ => Err(format!("is not a whole number of {what}")),
    }
}

pub(super) struct Millis(pub(super) Duration);
pub(super) struct Seconds(pub(super) Duration);
pub(super) struct Days(pub(super) Duration);

impl FromSetting for Millis {
    fn from_setting(text: &str) -> Result<Self, String> {
        duration(text, 1, "milliseconds").map(Self)
    }
}
impl FromSetting for Seconds {
    fn from_setting(text: &str) -> Result<Self, String> {
        if text == "0" {
            return Err("is 0; it takes at least 1 second".into());
        }
        duration(text, 1_000, "seconds").map(Self)
    }
}
impl FromSetting for Days {
    fn from_setting(text: &str) -> Result<Self, String> {
        duration(text, 86_400_000, "days").map(Self)
    }
}

/// A number with a unit, `15m`; seconds without one. From one second to a day.
pub(super) struct Period(pub(super) Duration);

impl FromSetting for Period {
    fn from_setting(text: &str) -> Result<Self, String> {
        let digits = text.trim_end_matches(|c: char| c.is_ascii_alphabetic());
        let unit = match &text[digits.len()..] {
            "" | "s" => Some(1),
            "m" => Some(60),
            "h" => Some(3600),
            _ => None,
        };
        let seconds = unit.zip(digits.parse::<u64>().ok()).map(|(unit, count)| count.saturating_mul(unit));
        match seconds {
            Some(seconds @ 1..=86_400) => Ok(Self(Duration::from_secs(seconds))),
            _ => Err("is not a time from 1s to 24h, such as 15m".into()),
        }
    }
}

/// Five or six fields; `off` switches the schedule off. Which fields are possible is checked by the
/// scheduler that reads them.
pub(super) struct Cron(pub(super) Option<String>);

impl FromSetting for Cron {
    fn from_setting(text: &str) -> Result<Self, String> {
        if text == "off" {
            return Ok(Self(None));
        }
        match text.split_whitespace().count() {
            5 => Ok(Self(Some(format!("0 {text}")))),
            6 => Ok(Self(Some(text.to_owned()))),
            _ => Err("is neither `off` nor a schedule of five or six fields, such as `0 3 * * *`".into()),
        }
    }
}

/// Becomes part of role names, so it is an SQL identifier.
pub(super) struct RolePrefix(pub(super) String);

impl FromSetting for RolePrefix {
    fn from_setting(text: &str) -> Result<Self, String> {
        let ok = text.len() <= 40
            && text.starts_with(|c: char| c.is_ascii_lowercase())
            && text.chars().all(|c| c.is_ascii_lowercase() || c.is_ascii_digit() || c == '_');
        if ok { Ok(Self(text.to_owned())) } else { Err("is not a name of lowercase letters, digits and underscores".into()) }
    }
}

/// An origin as browsers send it (RFC 6454, section 6.2); its port may be `*`.
pub(super) struct Origin(pub(super) String);

impl FromSetting for Origin {
    fn from_setting(text: &str) -> Result<Self, String> {
        if text == "*" {
            return Err("holds `*`, which would let every web page use a visitor's rights; list the origins".into());
        }
        let url = Url::parse(text.strip_suffix(":*").unwrap_or(text)).ok().filter(|url| matches!(url.scheme(), "http" | "https"));
        match url {
            Some(url) if url.origin().ascii_serialization() == text.strip_suffix(":*").unwrap_or(text) => Ok(Self(text.to_owned())),
            _ => Err("is not a list of origins, such as https://dashboard.example,http://localhost:*".into()),
        }
    }
}

pub(super) struct LogFilter(pub(super) String);

impl FromSetting for LogFilter {
    fn from_setting(text: &str) -> Result<Self, String> {
        // The filter itself would take any word for the name of a module, and then log nothing.
        let is_level = |word: &str| word.parse::<tracing_subscriber::filter::LevelFilter>().is_ok();
        let is_meant = text.split(',').all(|directive| directive.contains(['=', '[']) || is_level(directive.trim()));
        if is_meant && tracing_subscriber::EnvFilter::try_new(text).is_ok() {
            Ok(Self(text.to_owned()))
        } else {
            Err("is not a filter such as `info` or `info,sync=debug`".into())
        }
    }
}
