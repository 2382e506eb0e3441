ALTER TABLE mcp_fabric.events DROP COLUMN server_id;
