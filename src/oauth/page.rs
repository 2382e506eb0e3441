//! The page that browsers come back to. It asks before anything is stored: whoever was sent here by somebody else sees
//! for whom they would log in.

use axum::{
    http::{HeaderValue, StatusCode, header},
    response::{Html, IntoResponse, Response},
};

const POLICY: &str = "default-src 'none'; style-src 'unsafe-inline'; form-action 'self'; base-uri 'none'; frame-ancestors 'none'";
const STYLE: &str =
    "body{font:16px/1.5 system-ui,sans-serif;max-width:34em;margin:12vh auto;padding:0 1em}button{font:inherit;padding:.5em 1.2em}";

fn escaped(text: &str) -> String {
    text.chars().fold(String::with_capacity(text.len()), |mut out, c| {
        match c {
            '&' => out.push_str("&amp;"),
            '<' => out.push_str("&lt;"),
            '>' => out.push_str("&gt;"),
            '"' => out.push_str("&quot;"),
            '\'' => out.push_str("&#39;"),
            c => out.push(c),
        }
        out
    })
}

fn page(status: StatusCode, title: &str, body: &str) -> Response {
    let text = format!(
        "<!doctype html><html lang=en><meta charset=utf-8><meta name=viewport content=\"width=device-width\"><title>{title}</title><style>{STYLE}</style><h1>{title}</h1>{body}</html>"
    );
    let headers = [
        (header::CONTENT_SECURITY_POLICY, POLICY),
        (header::REFERRER_POLICY, "no-referrer"),
        (header::CACHE_CONTROL, "no-store"),
        (header::X_CONTENT_TYPE_OPTIONS, "nosniff"),
    ];
    let mut answer = (status, Html(text)).into_response();
    for (name, value) in headers {
        answer.headers_mut().insert(name, HeaderValue::from_static(value));
    }
    answer
}

/// Asks whether to go on; the form comes back to the same address.
pub(crate) fn ask(owner: &str, server_id: &str, issuer: &str) -> Response {
    let (owner, server_id, issuer) = (escaped(owner), escaped(server_id), escaped(issuer));
    let body = format!(
        "<p><b>{owner}</b> of this MCP Fabric is about to use the server <b>{server_id}</b> with your account at <b>{issuer}</b>.</p>\
         <p>Go on only if you began this yourself. If somebody sent you here, close this page: they would work with your account.</p>\
         <form method=post><button>Go on</button></form>"
    );
    page(StatusCode::OK, "Log in to a server", &body)
}

/// It is done.
pub(crate) fn done(server_id: &str) -> Response {
    let body = format!("<p>The server <b>{}</b> can be started now. You can close this page.</p>", escaped(server_id));
    page(StatusCode::OK, "Logged in", &body)
}

/// It did not come to that.
pub(crate) fn failed(status: StatusCode, why: &str) -> Response {
    page(status, "Not logged in", &format!("<p>{}.</p>", escaped(why)))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn nothing_of_a_page_is_markup_of_strangers() {
        assert_eq!(escaped(r#"<a href="x">'&"#), "&lt;a href=&quot;x&quot;&gt;&#39;&amp;");
    }
}
