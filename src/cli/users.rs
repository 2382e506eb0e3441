use clap::Subcommand;
use secrecy::{ExposeSecret as _, SecretString};
use serde_json::{Value, json};

use super::{
    CliError, Context,
    client::{Fabric, encoded},
    output,
};

#[derive(Debug, Subcommand)]
pub(super) enum UsersCommand {
    /// List accounts
    List {
        /// Only the account with this address
        #[arg(long)]
        email: Option<String>,
    },
    /// Make an account; the first one is an admin. The password is read from standard input
    Register {
        /// The address of the account
        email: String,
    },
    /// Invite somebody: prints what they register with
    Invite {
        /// The only address that may use it
        #[arg(long)]
        email: Option<String>,
        /// admin, member or auditor
        #[arg(long, default_value = "member")]
        role: String,
    },
    /// Give an account a fresh password, and end its logins and its lock
    ResetPassword {
        /// The address or the id of the account
        user: String,
    },
    /// Give an account another role
    Role {
        /// The address or the id of the account
        user: String,
        /// admin, member or auditor
        role: String,
    },
    /// Shut an account, and end its logins
    Disable {
        /// The address or the id of the account
        user: String,
    },
    /// Open an account again
    Enable {
        /// The address or the id of the account
        user: String,
    },
    /// Erase an account, with all that is its own
    Delete {
        /// The address or the id of the account
        user: String,
    },
}

#[derive(Debug, Subcommand)]
pub(super) enum TokensCommand {
    /// List service tokens (personal ones are listed by their owners)
    List,
    /// Make a service token for another program; it is printed once
    Create {
        /// What uses it
        name: String,
        /// What it may be used for; may be given several times
        #[arg(long = "scope", required = true)]
        scopes: Vec<String>,
        /// A server that it is for; may be given several times, none means all
        #[arg(long = "server")]
        servers: Vec<String>,
        /// A tool that it is for (`search`, `get_*`, `io.example/weather#forecast`); may be given several times, none means all
        #[arg(long = "tool")]
        tools: Vec<String>,
        /// When it ends (RFC 3339)
        #[arg(long)]
        expires_at: Option<String>,
    },
    /// End a token
    Revoke {
        /// Its id
        id: String,
    },
}

pub(super) async fn run(context: Context, command: UsersCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = users(&fabric, &context, command).await;
    fabric.leave().await;
    done
}

async fn users(fabric: &Fabric, context: &Context, command: UsersCommand) -> Result<(), CliError> {
    match command {
        UsersCommand::List { email } => return list(fabric, context, email).await,
        UsersCommand::Register { email } => {
            let password = read_secret("password: ")?;
            let body = json!({ "email": email, "password": password.expose_secret() });
            let user = fabric.post_json("/api/mcp/auth/register", body.to_string().into_bytes()).await?;
            let sentence = format!("{} is registered as {}", output::text(&user, "email"), output::text(&user, "role"));
            output::done(context.json, sentence, &user);
        }
        UsersCommand::Invite { email, role } => {
            let body = json!({ "email": email, "role": role }).to_string().into_bytes();
            let invited = fabric.post_json("/api/mcp/invites", body).await?;
            output::note(
                context.json,
                format!("good until {}; to be sent as `invite` when registering:", output::text(&invited, "expires_at")),
            );
            output::done(context.json, output::text(&invited, "invite"), &invited);
        }
        UsersCommand::ResetPassword { user } => {
            let id = find(fabric, &user).await?;
            let fresh = fabric.post(&format!("/api/mcp/users/{id}/reset-password")).await?;
            output::note(context.json, "the fresh password, to be changed after the next login:");
            output::done(context.json, output::text(&fresh, "password"), &fresh);
        }
        UsersCommand::Role { user, role } => change(fabric, context, &user, &json!({ "role": role })).await?,
        UsersCommand::Disable { user } => change(fabric, context, &user, &json!({ "disabled": true })).await?,
        UsersCommand::Enable { user } => change(fabric, context, &user, &json!({ "disabled": false })).await?,
        UsersCommand::Delete { user } => {
            let id = find(fabric, &user).await?;
            fabric.delete(&format!("/api/mcp/users/{id}")).await?;
            output::done(context.json, format!("{user} and all that was theirs is gone"), &json!({ "deleted": id }));
        }
    }
    Ok(())
}

async fn change(fabric: &Fabric, context: &Context, user: &str, body: &Value) -> Result<(), CliError> {
    let id = find(fabric, user).await?;
    let changed = fabric.put_json(&format!("/api/mcp/users/{id}"), body.to_string().into_bytes()).await?;
    let shut = if changed["disabled_at"].is_null() { "" } else { ", shut" };
    output::done(context.json, format!("{}: {}{shut}", output::text(&changed, "email"), output::text(&changed, "role")), &changed);
    Ok(())
}

/// The id of an account that is named by its address or its id.
async fn find(fabric: &Fabric, user: &str) -> Result<String, CliError> {
    if !user.contains('@') {
        return Ok(encoded(user));
    }
    let found = fabric.get(&format!("/api/mcp/users?email={}", encoded(user))).await?;
    let id = found["users"][0]["id"].as_str().map(str::to_owned);
    id.ok_or_else(|| CliError::Found(format!("there is no account with the address {user}")))
}

async fn list(fabric: &Fabric, context: &Context, email: Option<String>) -> Result<(), CliError> {
    let email = email.map(|email| format!("&email={}", encoded(&email))).unwrap_or_default();
    let found = fabric.get(&format!("/api/mcp/users?limit=200{email}")).await?;
    if context.json {
        output::json(&found);
        return Ok(());
    }
    let cells = |user: &Value| ["id", "email", "role", "created_at", "disabled_at"].map(|key| output::text(user, key));
    let rows: Vec<[String; 5]> = found["users"].as_array().into_iter().flatten().map(cells).collect();
    output::table(["ID", "EMAIL", "ROLE", "CREATED", "SHUT SINCE"], &rows);
    Ok(())
}

pub(super) async fn run_tokens(context: Context, command: TokensCommand) -> Result<(), CliError> {
    let fabric = Fabric::reach(&context).await?;
    let done = tokens(&fabric, &context, command).await;
    fabric.leave().await;
    done
}

async fn tokens(fabric: &Fabric, context: &Context, command: TokensCommand) -> Result<(), CliError> {
    match command {
        TokensCommand::List => {
            let found = fabric.get("/api/mcp/tokens?service=true&limit=200").await?;
            if context.json {
                output::json(&found);
                return Ok(());
            }
            let cells = |token: &Value| {
                let [id, kind, name, prefix, used, revoked] =
                    ["id", "kind", "name", "prefix", "last_used_at", "revoked_at"].map(|key| output::text(token, key));
                let scopes: Vec<&str> = token["scopes"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
                [id, kind, name, prefix, scopes.join(" "), used, revoked]
            };
            let rows: Vec<[String; 7]> = found["tokens"].as_array().into_iter().flatten().map(cells).collect();
            output::table(["ID", "KIND", "NAME", "BEGINS", "SCOPES", "LAST USED", "REVOKED"], &rows);
        }
        TokensCommand::Create { name, scopes, servers, tools, expires_at } => {
            let some = |list: Vec<String>| (!list.is_empty()).then_some(list);
            let (servers, tools) = (some(servers), some(tools));
            let body = json!({
                "name": name, "kind": "service", "scopes": scopes, "servers": servers, "tools": tools, "expires_at": expires_at,
            });
            let made = fabric.post_json("/api/mcp/tokens", body.to_string().into_bytes()).await?;
            output::note(context.json, format!("the token {}, shown once:", output::text(&made, "id")));
            output::done(context.json, output::text(&made, "token"), &made);
        }
        TokensCommand::Revoke { id } => {
            fabric.delete(&format!("/api/mcp/tokens/{}", encoded(&id))).await?;
            output::done(context.json, "the token has ended", &json!({ "revoked": id }));
        }
    }
    Ok(())
}

/// One line of standard input; without an echo where somebody types it.
pub(super) fn read_secret(prompt: &str) -> Result<SecretString, CliError> {
    use std::io::{IsTerminal as _, Write as _};
    let stdin = std::io::stdin();
    let terminal = stdin.is_terminal().then(|| rustix::termios::tcgetattr(&stdin).ok()).flatten();
    if let Some(before) = &terminal {
        let mut silent = before.clone();
        silent.local_modes -= rustix::termios::LocalModes::ECHO;
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, &silent).ok();
        write!(std::io::stderr(), "{prompt}").ok();
    }
    let mut line = zeroize::Zeroizing::new(String::new());
    let read = stdin.read_line(&mut line);
    if let Some(before) = &terminal {
        rustix::termios::tcsetattr(&stdin, rustix::termios::OptionalActions::Now, before).ok();
        writeln!(std::io::stderr()).ok();
    }
    read.map_err(CliError::Input)?;
    Ok(line.trim_end_matches(['\r', '\n']).into())
}
