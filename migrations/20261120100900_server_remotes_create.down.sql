DROP TABLE mcp_fabric.server_remotes;
