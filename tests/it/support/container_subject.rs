//! A server in one static file, for images that hold nothing else: MCP over standard input and output, by hand.

use std::io::{BufRead, Write};

/// The text or number after `"key":` in a line of JSON, as it stands.
fn member<'a>(line: &'a str, key: &str) -> Option<&'a str> {
    let rest = line.split_once(&format!("\"{key}\":"))?.1.trim_start();
    let end = if let Some(text) = rest.strip_prefix('"') { text.find('"')? + 2 } else { rest.find([',', '}'])? };
    Some(&rest[..end])
}

fn text(value: &str) -> String {
    let value = value.replace('\\', "\\\\").replace('"', "\\\"").replace('\n', "\\n").replace('\t', "\\t");
    format!("{{\"content\":[{{\"type\":\"text\",\"text\":\"{value}\"}}]}}")
}

fn tool(line: &str) -> String {
    match member(line, "name") {
        Some("\"echo\"") => text(member(line, "message").unwrap_or_default().trim_matches('"')),
        Some("\"env\"") => text(&std::env::vars().map(|(name, value)| format!("{name}={value}")).collect::<Vec<_>>().join("\n")),
        Some("\"args\"") => text(&std::env::args().skip(1).collect::<Vec<_>>().join(" ")),
        Some("\"status\"") => text(&std::fs::read_to_string("/proc/self/status").unwrap_or_default()),
        Some("\"write\"") => {
            let path = member(line, "path").unwrap_or_default().trim_matches('"');
            text(&std::fs::write(path, "x").map_or_else(|error| format!("{:?}", error.kind()), |()| "written".into()))
        }
        Some("\"connect\"") => {
            let to = member(line, "to").unwrap_or_default().trim_matches('"').parse();
            let limit = std::time::Duration::from_secs(2);
            let tried = to.map(|to| std::net::TcpStream::connect_timeout(&to, limit).map_or_else(|error| format!("{:?}", error.kind()), |_| "connected".into()));
            text(&tried.unwrap_or_default())
        }
        Some("\"leak\"") => {
            let mut kept = Vec::new();
            loop {
                kept.push(vec![1_u8; 8 << 20]);
            }
        }
        Some("\"die\"") => std::process::exit(3),
        _ => text("no such tool"),
    }
}

fn main() {
    eprintln!("container subject: here");
    let tools = ["echo", "env", "args", "status", "write", "connect", "leak", "die"].map(|name| format!("{{\"name\":\"{name}\",\"inputSchema\":{{\"type\":\"object\"}}}}"));
    for line in std::io::stdin().lock().lines().map_while(Result::ok) {
        let Some(id) = member(&line, "id") else { continue };
        let result = match member(&line, "method") {
            Some("\"initialize\"") => "{\"protocolVersion\":\"2025-11-25\",\"capabilities\":{\"tools\":{}},\"serverInfo\":{\"name\":\"static\",\"version\":\"1\"}}".to_owned(),
            Some("\"ping\"") => "{}".to_owned(),
            Some("\"tools/list\"") => format!("{{\"tools\":[{}]}}", tools.join(",")),
            Some("\"tools/call\"") => tool(&line),
            _ => {
                println!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"error\":{{\"code\":-32601,\"message\":\"Method not found\"}}}}");
                continue;
            }
        };
        println!("{{\"jsonrpc\":\"2.0\",\"id\":{id},\"result\":{result}}}");
        std::io::stdout().flush().ok();
    }
}
