DROP TABLE mcp_fabric.sync_seen;
