use secrecy::SecretString;
use url::Url;

use super::{ConfigError, Layers};

/// Where the Messages API is, where nothing else is said.
const MESSAGES: &str = "https://api.anthropic.com";
/// Which model is asked, where nothing is said.
const MODEL: &str = "claude-sonnet-5-5";

/// How servers are made.
#[derive(Clone, Debug)]
pub struct FactoryConfig {
    /// A listener of its own for the older paths, on the address of the main one.
    pub port: Option<u16>,
    /// What reads descriptions; without one, rules do.
    pub model: Option<ModelConfig>,
}

/// A language model.
#[derive(Clone, Debug)]
pub struct ModelConfig {
    /// By which API.
    pub speaks: Speaks,
    /// Where.
    pub base: Url,
    /// What it wants to know who asks by.
    pub key: Option<SecretString>,
    /// Which.
    pub model: String,
}

/// The API of a language model.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Speaks {
    /// Anthropic's Messages.
    Messages,
    /// Chat completions, which most others have.
    ChatCompletions,
}

impl FactoryConfig {
    pub(super) fn from_layers(layers: &Layers) -> Result<Self, ConfigError> {
        let key = layers.optional::<String>("ANTHROPIC_API_KEY")?.map(SecretString::from);
        let base = layers.optional::<Url>("ANTHROPIC_BASE_URL")?;
        let name = layers.optional::<String>("FACTORY_LLM_MODEL")?;
        let other = layers.optional::<Url>("FACTORY_LLM_URL")?;
        let model = |usual: &str| name.clone().unwrap_or_else(|| usual.to_owned());
        let model = match (other, key, base) {
            (Some(base), ..) => {
                let key = layers.optional::<String>("FACTORY_LLM_KEY")?.map(Into::into);
                let speaks = Speaks::ChatCompletions;
                Some(ModelConfig { speaks, base, key, model: model("default") })
            }
            (None, None, None) => None,
            (None, key, base) => {
                let base = base.or_else(|| Url::parse(MESSAGES).ok());
                base.map(|base| ModelConfig { speaks: Speaks::Messages, base, key, model: model(MODEL) })
            }
        };
        Ok(Self { port: layers.optional("MCP_FACTORY_PORT")?, model })
    }
}
