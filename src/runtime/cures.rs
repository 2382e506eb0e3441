//! Known cures: packages that do not start with the newest of what they need, and what does.

/// Servers written for the first major version of the `mcp` library meet the second one, whose classes lost these members.
const MCP_1: (&str, &[&str]) = (
    "mcp<2",
    &[
        "'Server' object has no attribute",
        "'FastMCP' object has no attribute",
        "cannot import name 'FastMCP'",
        "No module named 'mcp.server.fastmcp'",
        "No module named 'mcp.types'",
        "cannot import name 'McpError'",
    ],
);

/// The constraint that cures a server of PyPI which said this when it failed to start.
pub(crate) fn of(said: &str) -> Option<&'static str> {
    let (cure, signs) = MCP_1;
    signs.iter().any(|sign| said.contains(sign)).then_some(cure)
}

#[cfg(test)]
mod tests {
    use super::of;

    #[test]
    fn only_what_is_known_is_cured() {
        assert_eq!(of("AttributeError: 'Server' object has no attribute 'list_resources'"), Some("mcp<2"));
        assert_eq!(of("AttributeError: 'NoneType' object has no attribute 'x'"), None);
    }
}
