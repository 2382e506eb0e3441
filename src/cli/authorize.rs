//! Logging in to servers elsewhere.

use std::time::Duration;

use clap::Args;
use secrecy::ExposeSecret as _;
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{ClientError, Fabric, encoded},
    output,
    users::read_secret,
};

const POLL: Duration = Duration::from_secs(1);

/// Log in to a server elsewhere with a browser, and wait until it is done
#[derive(Debug, Args)]
pub(super) struct Authorize {
    /// A server's id
    server: String,
    /// The id of a client that was registered by hand, where the authorization server wants that
    #[arg(long, value_name = "ID")]
    client_id: Option<String>,
    /// Read the secret of that client from standard input
    #[arg(long, requires = "client_id")]
    client_secret: bool,
    /// What to ask for (default: what the server says)
    #[arg(long)]
    scope: Option<String>,
    /// End the login instead
    #[arg(long, conflicts_with_all = ["client_id", "scope"])]
    end: bool,
}

pub(super) async fn authorize(context: Context, asked: Authorize) -> Result<(), CliError> {
    let fabric = Fabric::reach_running(&context).await?;
    let path = format!("/api/mcp/servers/{}/authorization", encoded(&asked.server));
    let done = if asked.end { end(&fabric, &context, &path, &asked).await } else { log_in(&fabric, &context, &path, &asked).await };
    fabric.leave().await;
    done
}

async fn end(fabric: &Fabric, context: &Context, path: &str, asked: &Authorize) -> Result<(), CliError> {
    fabric.delete(path).await?;
    output::done(context.json, format!("the login at {} has ended", asked.server), &json!({ "server_id": asked.server }));
    Ok(())
}

/// When the login of before was last renewed; null where there is none.
async fn before(fabric: &Fabric, path: &str) -> Result<Value, CliError> {
    match fabric.get(path).await {
        Ok(found) => Ok(found["updated_at"].clone()),
        Err(ClientError::Refused { code, .. }) if code == "not_logged_in" => Ok(Value::Null),
        Err(error) => Err(error.into()),
    }
}

async fn log_in(fabric: &Fabric, context: &Context, path: &str, asked: &Authorize) -> Result<(), CliError> {
    let before_it = before(fabric, path).await?;
    let mut body = json!({ "client_id": asked.client_id, "scope": asked.scope });
    if asked.client_secret {
        body["client_secret"] = read_secret("the client's secret: ")?.expose_secret().into();
    }
    let begun = fabric.post_json(path, body.to_string().into_bytes()).await?;
    let address = output::text(&begun, "authorization_url");
    if context.json {
        output::json(&begun);
    } else {
        output::say(format!(
            "Open this address in your own browser:\n\n  {address}\n\nwaiting until you have logged in (until {})",
            output::text(&begun, "expires_at")
        ));
    }
    let until = tokio::time::Instant::now() + Duration::from_mins(10);
    while tokio::time::Instant::now() < until {
        tokio::time::sleep(POLL).await;
        let found = before(fabric, path).await?;
        if !found.is_null() && found != before_it {
            let sentence = format!("logged in; `mcp-fabric run {}` starts it", asked.server);
            output::done(context.json, sentence, &json!({ "server_id": asked.server, "updated_at": found }));
            return Ok(());
        }
    }
    Err(CliError::Found("nobody logged in within ten minutes".into()))
}
