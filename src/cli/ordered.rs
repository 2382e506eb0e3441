//! JSON of a person's own file: its members stay in the order in which they are.

use std::fmt;

use serde::{
    Deserialize, Deserializer, Serialize, Serializer,
    de::{MapAccess, SeqAccess, Visitor},
    ser::SerializeMap as _,
};
use serde_json::{Number, Value};

/// A value with its members in order.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Ordered {
    Null,
    Bool(bool),
    Number(Number),
    Text(String),
    List(Vec<Ordered>),
    Object(Vec<(String, Ordered)>),
}

impl Default for Ordered {
    fn default() -> Self {
        Self::Object(Vec::new())
    }
}

impl Ordered {
    pub(super) fn is_object(&self) -> bool {
        matches!(self, Self::Object(_))
    }

    fn members(&mut self) -> &mut Vec<(String, Self)> {
        if !self.is_object() {
            *self = Self::default();
        }
        match self {
            Self::Object(members) => members,
            _ => unreachable!("it was made one"),
        }
    }

    fn at(&mut self, name: &str, empty: Self) -> &mut Self {
        let members = self.members();
        let place = members.iter().position(|(key, _)| key == name).unwrap_or_else(|| {
            members.push((name.to_owned(), empty));
            members.len() - 1
        });
        &mut members[place].1
    }

    /// The object that a member is; made where there is none.
    pub(super) fn object_at(&mut self, name: &str) -> &mut Self {
        self.at(name, Self::default())
    }

    /// The list that a member is; made where there is none.
    pub(super) fn list_at(&mut self, name: &str) -> &mut Self {
        self.at(name, Self::List(Vec::new()))
    }

    /// In its place where it is there, else at the end.
    pub(super) fn set(&mut self, name: &str, value: Self) {
        *self.at(name, Self::Null) = value;
    }

    /// Whether it was there.
    pub(super) fn remove(&mut self, name: &str) -> bool {
        let members = self.members();
        let before = members.len();
        members.retain(|(key, _)| key != name);
        members.len() < before
    }

    /// Adds an object to a list, in the place of the one that has the same `key`.
    pub(super) fn put(&mut self, object: Self, key: &str) {
        let id = object.get(key).cloned();
        if !matches!(self, Self::List(_)) {
            *self = Self::List(Vec::new());
        }
        let Self::List(all) = self else { return };
        match all.iter_mut().find(|one| one.get(key) == id.as_ref()) {
            Some(one) => *one = object,
            None => all.push(object),
        }
    }

    fn get(&self, name: &str) -> Option<&Self> {
        match self {
            Self::Object(members) => members.iter().find(|(key, _)| key == name).map(|(_, value)| value),
            _ => None,
        }
    }
}

impl From<&Value> for Ordered {
    fn from(value: &Value) -> Self {
        match value {
            Value::Null => Self::Null,
            Value::Bool(is) => Self::Bool(*is),
            Value::Number(number) => Self::Number(number.clone()),
            Value::String(text) => Self::Text(text.clone()),
            Value::Array(list) => Self::List(list.iter().map(Self::from).collect()),
            Value::Object(members) => Self::Object(members.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect()),
        }
    }
}

impl From<&Ordered> for Value {
    fn from(value: &Ordered) -> Self {
        match value {
            Ordered::Null => Self::Null,
            Ordered::Bool(is) => Self::Bool(*is),
            Ordered::Number(number) => Self::Number(number.clone()),
            Ordered::Text(text) => Self::String(text.clone()),
            Ordered::List(list) => Self::Array(list.iter().map(Self::from).collect()),
            Ordered::Object(members) => Self::Object(members.iter().map(|(key, value)| (key.clone(), Self::from(value))).collect()),
        }
    }
}

impl Serialize for Ordered {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        match self {
            Self::Null => serializer.serialize_unit(),
            Self::Bool(is) => serializer.serialize_bool(*is),
            Self::Number(number) => number.serialize(serializer),
            Self::Text(text) => serializer.serialize_str(text),
            Self::List(list) => list.serialize(serializer),
            Self::Object(members) => {
                let mut map = serializer.serialize_map(Some(members.len()))?;
                for (key, value) in members {
                    map.serialize_entry(key, value)?;
                }
                map.end()
            }
        }
    }
}

impl<'de> Deserialize<'de> for Ordered {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Any;
        impl<'de> Visitor<'de> for Any {
            type Value = Ordered;
            fn expecting(&self, f: &mut fmt::Formatter) -> fmt::Result {
                f.write_str("JSON")
            }
            fn visit_unit<E>(self) -> Result<Ordered, E> {
                Ok(Ordered::Null)
            }
            fn visit_bool<E>(self, is: bool) -> Result<Ordered, E> {
                Ok(Ordered::Bool(is))
            }
            fn visit_i64<E>(self, number: i64) -> Result<Ordered, E> {
                Ok(Ordered::Number(number.into()))
            }
            fn visit_u64<E>(self, number: u64) -> Result<Ordered, E> {
                Ok(Ordered::Number(number.into()))
            }
            fn visit_f64<E>(self, number: f64) -> Result<Ordered, E> {
                Ok(Number::from_f64(number).map_or(Ordered::Null, Ordered::Number))
            }
            fn visit_str<E>(self, text: &str) -> Result<Ordered, E> {
                Ok(Ordered::Text(text.to_owned()))
            }
            fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Ordered, A::Error> {
                let mut list = Vec::new();
                while let Some(value) = seq.next_element()? {
                    list.push(value);
                }
                Ok(Ordered::List(list))
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Ordered, A::Error> {
                let mut members = Vec::new();
                while let Some(member) = map.next_entry()? {
                    members.push(member);
                }
                Ok(Ordered::Object(members))
            }
        }
        deserializer.deserialize_any(Any)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_file_keeps_its_order_and_what_is_not_ours() {
        let text = r#"{"z":1,"mcpServers":{"b":{"url":"x"},"a":null},"inputs":[{"id":"k","n":1}],"c":[1.5,true,"é"]}"#;
        let mut file: Ordered = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_string(&file).unwrap(), text);
        file.object_at("mcpServers").set("b", Ordered::Text("new".into()));
        file.object_at("mcpServers").set("d", Ordered::Null);
        file.list_at("inputs").put(serde_json::from_str(r#"{"id":"k","n":2}"#).unwrap(), "id");
        file.list_at("inputs").put(serde_json::from_str(r#"{"id":"l"}"#).unwrap(), "id");
        assert!(file.object_at("mcpServers").remove("a") && !file.object_at("mcpServers").remove("a"));
        assert_eq!(
            serde_json::to_string(&file).unwrap(),
            r#"{"z":1,"mcpServers":{"b":"new","d":null},"inputs":[{"id":"k","n":2},{"id":"l"}],"c":[1.5,true,"é"]}"#
        );
    }
}
