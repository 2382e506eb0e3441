//! Calls: each operation with the fewest arguments and with all of them, against an API that keeps what it is asked; and
//! what a server makes of an API that fails.

use std::{collections::BTreeMap, io, path::Path};

use secrecy::SecretString;
use serde_json::{Map, Value, json};

use super::{
    echo::{Echo, Mode},
    expect::Expected,
    kept::{Kept, Order, Room, Speaking},
    protocol::meta,
    sample::{Amount, arguments},
};
use crate::{
    finding::Finding,
    spec::{Action, Meta, Place, Scheme, ServerSpec, Tool},
};

/// How many operations are called; of more, so many that lie evenly among them.
const MOST_CALLED: usize = 150;
const MOST_FINDINGS: usize = 30;
const SECRET: &str = "kx3-secret-of-the-validator";
/// Seconds after which the server that meets a silent API is to give up.
const SHORT: &str = "0.3";

/// What was called, and what was found.
#[derive(Default)]
pub(crate) struct Called {
    pub(crate) findings: Vec<Finding>,
    /// Calls whose request could be compared, and those that were as the document demands.
    pub(crate) compared: usize,
    pub(crate) exact: usize,
    /// Operations for which no arguments could be made up.
    pub(crate) left_out: usize,
}

/// How the server is started.
pub(crate) struct Program<'a> {
    pub(crate) kept: &'a Kept,
    pub(crate) room: &'a Room,
    pub(crate) path: &'a Path,
    pub(crate) args: &'a [String],
    pub(crate) read: Vec<std::path::PathBuf>,
}

impl Program<'_> {
    pub(crate) fn start(&self, env: BTreeMap<String, SecretString>, network: bool) -> io::Result<Speaking> {
        self.kept.speak(self.room, Order { program: self.path, args: self.args.to_vec(), env, read: self.read.clone(), network })
    }
}

/// Calls what there is to call.
pub(crate) async fn check(spec: &ServerSpec, program: &Program<'_>) -> io::Result<Called> {
    let echo = Echo::start().await?;
    let mut server = program.start(environment(spec, &echo, "5"), true)?;
    let mut called = Called::default();
    let all: Vec<(usize, &Tool)> = spec.callable().enumerate().collect();
    let step = all.len().div_ceil(MOST_CALLED).max(1);
    let is_behind = |index: usize| index >= all.len() - spec.operations.len();
    for (index, tool) in all.iter().step_by(step) {
        let place = if is_behind(*index) {
            format!("/operations/{}", index - (all.len() - spec.operations.len()))
        } else {
            format!("/tools/{index}")
        };
        let one = One { spec, echo: &echo, tool, place, is_behind: is_behind(*index) };
        one.check(&mut server, &mut called).await?;
        if called.findings.len() >= MOST_FINDINGS {
            break;
        }
    }
    failures(spec, &echo, &mut server, &mut called).await?;
    for line in &server.stray {
        called.findings.push(Finding::error(
            "stdout",
            "stdout",
            format!("what is no message was written: {}", crate::text::line(line, 120)),
        ));
    }
    server.end().await?;
    silence(spec, &echo, program, &mut called).await?;
    Ok(called)
}

fn environment(spec: &ServerSpec, echo: &Echo, seconds: &str) -> BTreeMap<String, SecretString> {
    let mut env: BTreeMap<String, SecretString> = BTreeMap::new();
    for (number, base) in spec.bases.iter().enumerate() {
        env.insert(base.env.clone(), echo.base(number).into());
    }
    for scheme in spec.auth.values() {
        let names = match scheme {
            // Asking for a token is another API's matter.
            Scheme::ApiKey { env, .. } | Scheme::Bearer { env } | Scheme::ClientCredentials { env, .. } => vec![env],
            Scheme::Basic { username_env, password_env } => vec![username_env, password_env],
        };
        env.extend(names.into_iter().map(|name| (name.clone(), SECRET.to_owned().into())));
    }
    env.insert("MCP_TIMEOUT_SECONDS".into(), seconds.to_owned().into());
    env
}

struct One<'a> {
    spec: &'a ServerSpec,
    echo: &'a Echo,
    tool: &'a Tool,
    place: String,
    is_behind: bool,
}

/// A call as the protocol has it: directly, or through the tool that stands before all operations.
fn call_of(spec: &ServerSpec, tool: &Tool, args: &Map<String, Value>, is_behind: bool) -> Value {
    if !is_behind {
        return json!({ "name": tool.name, "arguments": args, "_meta": meta() });
    }
    let wanted = if tool.annotations.read_only { Meta::Read } else { Meta::Write };
    let through = spec.tools.iter().find(|one| matches!(one.action, Action::Meta { does } if does == wanted));
    json!({ "name": through.map(|one| &one.name), "arguments": { "operation": tool.name, "arguments": args }, "_meta": meta() })
}

fn text_of(result: &Value) -> String {
    result["content"].as_array().into_iter().flatten().filter_map(|part| part["text"].as_str()).collect::<Vec<_>>().join("\n")
}

impl One<'_> {
    async fn check(&self, server: &mut Speaking, called: &mut Called) -> io::Result<()> {
        let mut before = None;
        let mut is_called = false;
        for amount in [Amount::Least, Amount::All] {
            let Some(mut args) = arguments(&self.tool.input_schema, amount) else { continue };
            self.fill_path(&mut args);
            if before.as_ref() == Some(&args) {
                continue;
            }
            is_called = true;
            self.call(server, &args, called).await?;
            before = Some(args);
        }
        if !is_called {
            called.left_out += 1;
            called.findings.push(Finding::info(
                "call-left-out",
                &self.place,
                "no arguments could be made up that fit its schema; it was not called",
            ));
        }
        self.refuses(server, called).await
    }

    /// A path takes nothing that is empty: where the fewest members are none, it gets all of them.
    fn fill_path(&self, args: &mut Map<String, Value>) {
        let Action::Http(http) = &self.tool.action else { return };
        let is_empty = |value: &Value| value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
        let in_path = http.params.iter().filter(|param| param.r#in == Place::Path).filter_map(|param| param.arg.as_ref());
        for arg in in_path {
            let full = || arguments(&self.tool.input_schema, Amount::All).and_then(|mut all| all.remove(arg));
            if args.get(arg).is_some_and(is_empty)
                && let Some(value) = full()
            {
                args.insert(arg.clone(), value);
            }
        }
    }

    async fn call(&self, server: &mut Speaking, args: &Map<String, Value>, called: &mut Called) -> io::Result<()> {
        if matches!(&self.tool.action, Action::Builtin { handler } if handler.starts_with("fetch.")) {
            return Ok(());
        }
        self.echo.set(Mode::Well);
        self.echo.taken();
        let result = match server.ask("tools/call", &call_of(self.spec, self.tool, args, self.is_behind)).await? {
            Ok(result) => result,
            Err(error) => {
                called.findings.push(Finding::error(
                    "call-failed",
                    &self.place,
                    format!("a call that fits is refused: {}", crate::text::line(&error.to_string(), 300)),
                ));
                return Ok(());
            }
        };
        let mut asked = self.echo.taken();
        let expected = match &self.tool.action {
            Action::Http(http) => Expected::of(http, args, &Echo::prefix(http.base)).with_credentials(self.spec, &http.security, SECRET),
            Action::Graphql { path, base, query, .. } => {
                called.compared += 1;
                let body = asked.pop().and_then(|asked| serde_json::from_slice::<Value>(&asked.body).ok().map(|body| (asked.path, body)));
                let wanted = (format!("{}{path}", Echo::prefix(*base)), json!({ "query": query, "variables": args }));
                if body.as_ref() == Some(&wanted) {
                    called.exact += 1;
                } else {
                    called.findings.push(Finding::error(
                        "request-differs",
                        &self.place,
                        format!("the request is not the operation with its variables: {}", crate::text::line(&text_of(&result), 200)),
                    ));
                }
                return Ok(());
            }
            Action::Builtin { .. } | Action::Meta { .. } => {
                if !result["content"].is_array() {
                    called.findings.push(Finding::error("call-failed", &self.place, "a call has no content"));
                }
                return Ok(());
            }
        };
        called.compared += 1;
        match (&asked[..], result["isError"] == true) {
            ([one], false) => {
                let differences = expected.differences(one);
                if differences.is_empty() {
                    called.exact += 1;
                } else {
                    called.findings.push(Finding::error("request-differs", &self.place, differences.join("; ")));
                }
            }
            (all, _) => {
                let said = crate::text::line(&text_of(&result), 200);
                called.findings.push(Finding::error(
                    "call-failed",
                    &self.place,
                    format!("a call that fits made {} requests: {said}", all.len()),
                ));
            }
        }
        Ok(())
    }

    /// An argument that is not known reaches no API.
    async fn refuses(&self, server: &mut Speaking, called: &mut Called) -> io::Result<()> {
        if self.tool.input_schema.get("additionalProperties") != Some(&Value::Bool(false)) {
            return Ok(());
        }
        let mut args = arguments(&self.tool.input_schema, Amount::Least).unwrap_or_default();
        args.insert("no_such_argument_7d81b2".into(), true.into());
        self.echo.taken();
        let answer = server.ask("tools/call", &call_of(self.spec, self.tool, &args, self.is_behind)).await?;
        let is_refused = answer.is_ok_and(|result| result["isError"] == true) && self.echo.taken().is_empty();
        if !is_refused {
            called.findings.push(Finding::error(
                "argument-unknown",
                &self.place,
                "an argument that is not known is not refused by a result with isError",
            ));
        }
        Ok(())
    }
}

/// The first operation that can be called, with its arguments.
fn first(spec: &ServerSpec) -> Option<(&Tool, Map<String, Value>, bool)> {
    let all: Vec<&Tool> = spec.callable().collect();
    let behind = all.len() - spec.operations.len();
    let reads = |tool: &&Tool| matches!(&tool.action, Action::Http(http) if http.method == "GET");
    let any = |tool: &&Tool| matches!(&tool.action, Action::Http(_));
    let position = all
        .iter()
        .position(|tool| reads(tool) && arguments(&tool.input_schema, Amount::Least).is_some())
        .or_else(|| all.iter().position(any))?;
    let args = arguments(&all[position].input_schema, Amount::Least)?;
    Some((all[position], args, position >= behind && !spec.operations.is_empty()))
}

/// What a model is told of an API that refuses, is too busy, breaks, says too much or sends elsewhere.
async fn failures(spec: &ServerSpec, echo: &Echo, server: &mut Speaking, called: &mut Called) -> io::Result<()> {
    let Some((tool, args, is_behind)) = first(spec) else { return Ok(()) };
    let call = call_of(spec, tool, &args, is_behind);
    for status in [400, 401, 404, 429, 500] {
        echo.set(Mode::Status(status));
        let answer = server.ask("tools/call", &call).await?;
        let text = answer.as_ref().map(text_of).unwrap_or_default();
        let is_told = answer.is_ok_and(|result| result["isError"] == true) && text.contains(&status.to_string());
        if !is_told {
            called.findings.push(Finding::error(
                "failure-untold",
                "calls",
                format!("an answer {status} of the API is not told as one, by a result with isError"),
            ));
        }
        if text.contains(SECRET) {
            called.findings.push(Finding::error(
                "secret-told",
                "calls",
                format!("an answer {status} of the API that repeats a secret is passed on with it"),
            ));
        }
    }
    echo.set(Mode::Huge);
    let huge = server.ask("tools/call", &call).await?.map_err(|error| io::Error::other(error.to_string()))?;
    if text_of(&huge).len() > 60_000 {
        called.findings.push(Finding::error("answer-uncut", "calls", "an answer of 12 MiB is passed on whole"));
    }
    echo.set(Mode::Away);
    let away = server.ask("tools/call", &call).await?;
    if !away.is_ok_and(|result| result["isError"] == true) {
        called.findings.push(Finding::error("redirect-followed", "calls", "a redirect to another host is followed"));
    }
    echo.set(Mode::Well);
    Ok(())
}

/// An API that does not answer is given up.
async fn silence(spec: &ServerSpec, echo: &Echo, program: &Program<'_>, called: &mut Called) -> io::Result<()> {
    let Some((tool, args, is_behind)) = first(spec) else { return Ok(()) };
    echo.set(Mode::Never);
    let mut server = program.start(environment(spec, echo, SHORT), true)?;
    let answer = server.ask("tools/call", &call_of(spec, tool, &args, is_behind)).await?;
    if !answer.is_ok_and(|result| result["isError"] == true) {
        called.findings.push(Finding::error("silence", "calls", "an API that does not answer is not told as an error"));
    }
    server.end().await.map(drop)
}
