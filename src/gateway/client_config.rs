//! What MCP clients are told of a server: the JSON that belongs into their files.
//!
//! What is secret is never in it: a client asks for it (`inputs` of VS Code) or takes it from its environment
//! (`${NAME}` of Claude Code, `${env:NAME}` of Cursor). Claude Desktop has neither, and starts `mcp-fabric connect`,
//! which finds the token itself.

use serde_json::{Map, Value, json};

use crate::names;

platform::words! {
    /// A client that keeps its servers in a file.
    pub enum ClientKind {
        /// `claude_desktop_config.json`; starts programs only.
        ClaudeDesktop = "claude-desktop",
        /// `.mcp.json`, `~/.claude.json`.
        ClaudeCode = "claude-code",
        /// `.vscode/mcp.json`; Copilot reads the same.
        Vscode = "vscode",
        /// `.cursor/mcp.json`, `~/.cursor/mcp.json`.
        Cursor = "cursor",
    }
}

platform::words! {
    /// How a client reaches a server.
    pub enum Way {
        /// By this fabric.
        Gateway = "gateway",
        /// It starts the server itself.
        Direct = "direct",
    }
}

/// The variable, and the input, that holds a personal access token.
const TOKEN: &str = "FABRIC_TOKEN";

/// A file for one client that is being written.
struct Draft {
    kind: ClientKind,
    /// Of VS Code: what it asks for.
    inputs: Vec<Value>,
}

/// What a value of a server's document declares of itself.
struct Declared<'a>(&'a Value);

impl Declared<'_> {
    fn text(&self, key: &str) -> Option<&str> {
        self.0[key].as_str()
    }

    fn is(&self, key: &str) -> bool {
        self.0[key] == true
    }
}

impl Draft {
    fn new(kind: ClientKind) -> Self {
        Self { kind, inputs: Vec::new() }
    }

    /// How the client is told to put a value in.
    fn reference(&mut self, name: &str, of: &Declared) -> String {
        let default = of.text("default");
        match self.kind {
            ClientKind::ClaudeDesktop => default.unwrap_or_default().to_owned(),
            ClientKind::ClaudeCode if !of.is("isSecret") => {
                default.map_or_else(|| format!("${{{name}}}"), |default| format!("${{{name}:-{default}}}"))
            }
            ClientKind::ClaudeCode => format!("${{{name}}}"),
            ClientKind::Cursor => format!("${{env:{name}}}"),
            ClientKind::Vscode => {
                self.ask(name, of);
                format!("${{input:{name}}}")
            }
        }
    }

    fn ask(&mut self, name: &str, of: &Declared) {
        if self.inputs.iter().any(|input| input["id"] == name) {
            return;
        }
        let mut input = json!({ "type": "promptString", "id": name, "description": of.text("description").unwrap_or(name) });
        if let Some(choices) = of.0["choices"].as_array().filter(|choices| !choices.is_empty()) {
            input["type"] = "pickString".into();
            input["options"] = choices.clone().into();
        }
        if of.is("isSecret") {
            input["password"] = true.into();
        }
        if let Some(default) = of.text("default") {
            input["default"] = default.into();
        }
        self.inputs.push(input);
    }

    /// What a declared value comes to: fixed, made of its variables, or left to the client.
    fn value(&mut self, name: &str, declared: &Value) -> Option<String> {
        let of = Declared(declared);
        if let Some(fixed) = of.text("value") {
            let variables: Vec<(String, Value)> =
                declared["variables"].as_object().into_iter().flatten().map(|(key, value)| (key.clone(), value.clone())).collect();
            let mut text = fixed.to_owned();
            for (key, variable) in variables {
                let place = format!("{{{key}}}");
                if text.contains(&place) {
                    let put = self.reference(&key, &Declared(&variable));
                    text = text.replace(&place, &put);
                }
            }
            return Some(text);
        }
        // What may be left out is left out, unless the client can ask.
        let is_wanted = of.is("isRequired") || of.text("default").is_some() || self.kind == ClientKind::Vscode || of.is("isSecret");
        is_wanted.then(|| self.reference(name, &of))
    }

    fn arguments(&mut self, declared: &Value) -> Vec<String> {
        let mut all = Vec::new();
        for argument in declared.as_array().into_iter().flatten() {
            let of = Declared(argument);
            let name = of.text("name").unwrap_or_default();
            let input = of.text("valueHint").or(of.text("name")).unwrap_or("argument").trim_start_matches('-').to_owned();
            let is_flag = of.text("type") == Some("named") && of.text("value").is_none() && of.text("format") == Some("boolean");
            let may_be_left_out = !of.is("isRequired") && of.text("value").is_none() && of.text("default").is_none();
            if may_be_left_out {
                continue;
            }
            if of.text("type") == Some("named") {
                all.push(name.to_owned());
            }
            if !is_flag && let Some(value) = self.value(&input, argument) {
                all.push(value);
            }
        }
        all
    }

    fn variables(&mut self, declared: &Value) -> Map<String, Value> {
        let declared: Vec<Value> = declared.as_array().cloned().unwrap_or_default();
        let named = declared.iter().filter_map(|variable| Some((variable["name"].as_str()?, variable)));
        named.filter_map(|(name, variable)| Some((name.to_owned(), self.value(name, variable)?.into()))).collect()
    }

    /// The whole file.
    fn finish(self, name: &str, server: &Value) -> Value {
        let key = if self.kind == ClientKind::Vscode { "servers" } else { "mcpServers" };
        let mut file = json!({ key: { name: server } });
        if !self.inputs.is_empty() {
            file["inputs"] = self.inputs.into();
        }
        file
    }
}

/// The file of a client that reaches a server, or all of them, by this fabric at `address`.
pub(crate) fn by_gateway(kind: ClientKind, server: Option<&str>, address: &str) -> Value {
    let mut draft = Draft::new(kind);
    let name = server.map_or_else(|| "mcp-fabric".to_owned(), names::server);
    if kind == ClientKind::ClaudeDesktop {
        let args: Vec<&str> = std::iter::once("connect").chain(server).collect();
        return draft.finish(&name, &json!({ "command": "mcp-fabric", "args": args, "env": { "FABRIC_URL": address } }));
    }
    let token = json!({ "isSecret": true, "description": "A personal access token of MCP Fabric with the scope mcp:call" });
    let path = server.map_or_else(|| "/mcp".to_owned(), |server| format!("/mcp/s/{}", platform::client::encoded(server)));
    let headers = json!({ "Authorization": format!("Bearer {}", draft.reference(TOKEN, &Declared(&token))) });
    let mut entry = json!({ "url": format!("{address}{path}"), "headers": headers });
    if kind != ClientKind::Cursor {
        entry["type"] = "http".into();
    }
    draft.finish(&name, &entry)
}

/// The file of a client that starts a server, or reaches it where it is, itself; `None` for a document that says neither.
pub(crate) fn direct(kind: ClientKind, id: &str, document: &Value) -> Option<Value> {
    let mut draft = Draft::new(kind);
    let mut packages = document["packages"].as_array().into_iter().flatten();
    let entry = match packages.find_map(|package| started(&mut draft, package)) {
        Some(entry) => entry,
        None => elsewhere(&mut draft, servers::first_remote(document)?),
    };
    Some(draft.finish(&names::server(id), &entry))
}

/// The program that runs a package, as each kind of package is run by its own tool.
fn started(draft: &mut Draft, package: &Value) -> Option<Value> {
    let identifier = package["identifier"].as_str()?;
    let version = package["version"].as_str().filter(|version| !version.is_empty() && *version != "latest");
    let env = draft.variables(&package["environmentVariables"]);
    let (command, mut args) = match package["registryType"].as_str()? {
        "npm" => ("npx", vec!["-y".to_owned(), version.map_or(identifier.to_owned(), |version| format!("{identifier}@{version}"))]),
        "pypi" => ("uvx", vec![version.map_or(identifier.to_owned(), |version| format!("{identifier}=={version}"))]),
        "oci" => {
            let names = env.keys().flat_map(|name| ["-e".to_owned(), name.clone()]);
            let run = ["run", "-i", "--rm"].map(str::to_owned);
            let runtime = draft.arguments(&package["runtimeArguments"]);
            ("docker", run.into_iter().chain(names).chain(runtime).chain([identifier.to_owned()]).collect())
        }
        _ => return None,
    };
    args.extend(draft.arguments(&package["packageArguments"]));
    let mut entry = json!({ "command": command, "args": args });
    if !env.is_empty() {
        entry["env"] = env.into();
    }
    if draft.kind == ClientKind::Vscode {
        entry["type"] = "stdio".into();
    }
    Some(entry)
}

fn elsewhere(draft: &mut Draft, remote: &Value) -> Value {
    let address = json!({ "value": remote["url"], "variables": remote["variables"] });
    let url = draft.value("url", &address).unwrap_or_default();
    let headers = draft.variables(&remote["headers"]);
    let is_events = remote["type"] == "sse";
    if draft.kind == ClientKind::ClaudeDesktop {
        let mut args = vec!["-y".to_owned(), "mcp-remote".to_owned(), url];
        for (name, value) in &headers {
            args.extend(["--header".to_owned(), format!("{name}:{}", value.as_str().unwrap_or_default())]);
        }
        return json!({ "command": "npx", "args": args });
    }
    let mut entry = json!({ "url": url });
    if draft.kind != ClientKind::Cursor {
        entry["type"] = if is_events { "sse" } else { "http" }.into();
    }
    if !headers.is_empty() {
        entry["headers"] = headers.into();
    }
    entry
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_is_told_in_its_own_way_and_none_is_told_a_secret() {
        let made = |kind| by_gateway(kind, Some("io.github.acme/weather"), "http://127.0.0.1:8085");
        let name = names::server("io.github.acme/weather");
        let url = "http://127.0.0.1:8085/mcp/s/io.github.acme%2Fweather";
        let code = made(ClientKind::ClaudeCode);
        assert_eq!(
            code["mcpServers"][&name],
            json!({ "type": "http", "url": url, "headers": { "Authorization": "Bearer ${FABRIC_TOKEN}" } })
        );
        assert_eq!(made(ClientKind::Cursor)["mcpServers"][&name]["headers"]["Authorization"], "Bearer ${env:FABRIC_TOKEN}");
        let vscode = made(ClientKind::Vscode);
        assert_eq!(vscode["servers"][&name]["headers"]["Authorization"], "Bearer ${input:FABRIC_TOKEN}");
        assert_eq!((&vscode["inputs"][0]["id"], &vscode["inputs"][0]["password"]), (&json!("FABRIC_TOKEN"), &json!(true)));
        let desktop = made(ClientKind::ClaudeDesktop);
        assert_eq!(desktop["mcpServers"][&name]["args"], json!(["connect", "io.github.acme/weather"]));
        assert_eq!(
            by_gateway(ClientKind::ClaudeCode, None, "http://127.0.0.1:8085")["mcpServers"]["mcp-fabric"]["url"],
            "http://127.0.0.1:8085/mcp"
        );
    }

    #[test]
    fn a_package_is_run_by_its_own_tool() {
        let document = json!({ "packages": [{
            "registryType": "npm", "identifier": "@acme/weather", "version": "1.2.3",
            "environmentVariables": [{ "name": "API_KEY", "isRequired": true, "isSecret": true, "description": "A key" }, { "name": "REGION", "default": "eu" }],
            "packageArguments": [
                { "type": "named", "name": "--units", "value": "{units}", "variables": { "units": { "default": "metric", "choices": ["metric", "imperial"] } } },
                { "type": "positional", "valueHint": "folder", "isRequired": true }, { "type": "named", "name": "--extra" },
            ],
        }] });
        let vscode = direct(ClientKind::Vscode, "weather", &document).unwrap();
        let entry = &vscode["servers"]["weather"];
        assert_eq!(
            (&entry["command"], &entry["args"]),
            (&json!("npx"), &json!(["-y", "@acme/weather@1.2.3", "--units", "${input:units}", "${input:folder}"]))
        );
        assert_eq!(entry["env"], json!({ "API_KEY": "${input:API_KEY}", "REGION": "${input:REGION}" }));
        let asked: Vec<&str> = vscode["inputs"].as_array().unwrap().iter().map(|input| input["id"].as_str().unwrap()).collect();
        assert_eq!(asked, ["API_KEY", "REGION", "units", "folder"]);
        assert_eq!(vscode["inputs"][2]["type"], "pickString");
        let code = direct(ClientKind::ClaudeCode, "weather", &document).unwrap();
        assert_eq!(code["mcpServers"]["weather"]["env"], json!({ "API_KEY": "${API_KEY}", "REGION": "${REGION:-eu}" }));
        let desktop = direct(ClientKind::ClaudeDesktop, "weather", &document).unwrap();
        assert_eq!(desktop["mcpServers"]["weather"]["env"], json!({ "API_KEY": "", "REGION": "eu" }));
    }

    #[test]
    fn a_server_elsewhere_is_reached_where_it_is() {
        let document = json!({ "remotes": [{
            "type": "streamable-http", "url": "https://{tenant}.example/mcp", "variables": { "tenant": { "isRequired": true } },
            "headers": [{ "name": "X-Key", "isSecret": true, "isRequired": true }],
        }] });
        let cursor = direct(ClientKind::Cursor, "far", &document).unwrap();
        assert_eq!(
            cursor["mcpServers"]["far"],
            json!({ "url": "https://${env:tenant}.example/mcp", "headers": { "X-Key": "${env:X-Key}" } })
        );
        assert_eq!(direct(ClientKind::Vscode, "far", &document).unwrap()["servers"]["far"]["type"], "http");
        assert!(direct(ClientKind::Cursor, "none", &json!({})).is_none());
    }
}
