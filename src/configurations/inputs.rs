//! Values against the inputs that a server declares.

use credentials::{EnvVar, input_credential};
use platform::secrets::SECRET;
use secrecy::SecretString;
use serde_json::{Map, Number, Value};
use servers::DeclaredInput;

use crate::error::ConfigurationsError;

const LONGEST: usize = 32 << 10;

/// Values that fit, parted by where they are kept.
#[derive(Default)]
pub(crate) struct Parted {
    /// Null takes a value away.
    pub(crate) plain: Map<String, Value>,
    pub(crate) secret: Vec<(EnvVar, SecretString)>,
}

/// The credential that a secret input is kept as.
pub(crate) fn credential_of(input: &DeclaredInput) -> Result<EnvVar, credentials::Unfit> {
    if input.location == "env" { EnvVar::parse(&input.env_var) } else { EnvVar::parse(&input_credential(&input.env_var)) }
}

/// Checks each value against the input of its name.
pub(crate) fn part(inputs: &[DeclaredInput], values: Map<String, Value>) -> Result<Parted, ConfigurationsError> {
    let mut parted = Parted::default();
    for (name, value) in values {
        let Some(input) = inputs.iter().find(|input| input.env_var == name) else {
            return Err(ConfigurationsError::Field("body.values".into(), "names something that is not an input of this server"));
        };
        let unfit = |message| ConfigurationsError::Field(format!("body.values.{name}"), message);
        if input.location == "env" {
            EnvVar::parse(&name).map_err(|error| unfit(error.0))?;
        }
        match value {
            Value::String(text) if input.secret && text == SECRET => {}
            Value::Null if input.secret => return Err(unfit("is a secret: remove it where credentials are removed")),
            Value::Null => {
                parted.plain.insert(name, Value::Null);
            }
            value => {
                let fitting = fit(input, value).map_err(unfit)?;
                if input.secret {
                    parted.secret.push((credential_of(input).map_err(|error| unfit(error.0))?, text(fitting).into()));
                } else {
                    parted.plain.insert(name, fitting);
                }
            }
        }
    }
    Ok(parted)
}

/// A value in the type that the input states.
fn fit(input: &DeclaredInput, value: Value) -> Result<Value, &'static str> {
    let value = match (input.format.as_str(), value) {
        (_, Value::Array(_) | Value::Object(_)) => return Err("must be text, a number, true or false"),
        ("number", Value::Number(number)) => Value::Number(number),
        ("number", Value::String(text)) => Value::Number(text.trim().parse::<Number>().map_err(|_| "must be a number")?),
        ("number", _) => return Err("must be a number"),
        ("boolean", Value::Bool(flag)) => Value::Bool(flag),
        ("boolean", Value::String(text)) => Value::Bool(text.parse().map_err(|_| "must be true or false")?),
        ("boolean", _) => return Err("must be true or false"),
        (_, other) => Value::String(text(other)),
    };
    if let Value::String(text) = &value {
        if text.len() > LONGEST {
            return Err("must be no longer than 32768 bytes");
        }
        if text.contains('\0') || (input.location == "header" && text.contains(['\r', '\n'])) {
            return Err("must not hold line ends in a header, nor NUL anywhere");
        }
    }
    let is_choice = input.choices.as_ref().is_none_or(|choices| choices.contains(&text(value.clone())));
    if is_choice { Ok(value) } else { Err("is not one of the choices that the server states") }
}

fn text(value: Value) -> String {
    match value {
        Value::String(text) => text,
        other => other.to_string(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn input(location: &str, format: &str, secret: bool) -> DeclaredInput {
        DeclaredInput {
            location: location.into(),
            env_var: "X_1".into(),
            description: None,
            required: false,
            secret,
            format: format.into(),
            choices: None,
            default_value: None,
        }
    }

    #[test]
    fn values_get_the_type_that_the_server_states() {
        let fitted = |format: &str, value: Value| fit(&input("env", format, false), value);
        assert_eq!(fitted("number", json!("80")), Ok(json!(80)));
        assert_eq!(fitted("number", json!(1.5)), Ok(json!(1.5)));
        assert_eq!(fitted("number", json!("NaN")), Err("must be a number"));
        assert_eq!(fitted("number", json!("1e999999")).map(|_| ()).is_ok(), "1e999999".parse::<Number>().is_ok());
        assert_eq!(fitted("boolean", json!("true")), Ok(json!(true)));
        assert_eq!(fitted("boolean", json!("yes")), Err("must be true or false"));
        assert_eq!(fitted("string", json!(7)), Ok(json!("7")));
        assert!(fitted("string", json!([1])).is_err());
        assert!(fitted("string", json!("a\0")).is_err());
        assert!(fit(&input("header", "string", false), json!("a\r\nX: y")).is_err());
        let choice = DeclaredInput { choices: Some(vec!["8080".into()]), ..input("env", "number", false) };
        assert_eq!((fit(&choice, json!(8080)).is_ok(), fit(&choice, json!(1)).is_ok()), (true, false));
    }

    #[test]
    fn secrets_are_parted_from_the_rest() {
        let given = |value: Value| Map::from_iter([("X_1".to_owned(), value)]);
        let parted = part(&[input("env", "string", true)], given(json!("s3"))).unwrap();
        assert!(parted.plain.is_empty() && parted.secret.len() == 1);
        let kept = part(&[input("env", "string", true)], given(json!(SECRET))).unwrap();
        assert!(kept.plain.is_empty() && kept.secret.is_empty());
        let header = DeclaredInput { env_var: "X-Api-Key".into(), ..input("header", "string", true) };
        assert_eq!(credential_of(&header).unwrap().as_str(), "X_Api_Key");
    }

    proptest::proptest! {
        #[test]
        fn no_value_makes_the_check_panic(value in "\\PC*", format in "string|number|boolean|filepath") {
            fit(&input("argument", &format, false), Value::String(value)).ok();
        }
    }
}
