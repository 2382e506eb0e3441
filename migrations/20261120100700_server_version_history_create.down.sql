DROP TABLE mcp_fabric.server_version_history;
