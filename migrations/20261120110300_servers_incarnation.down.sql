DROP TRIGGER servers_reborn ON mcp_fabric.servers;
DROP FUNCTION mcp_fabric.servers_reborn();
ALTER TABLE mcp_fabric.servers DROP COLUMN incarnation;
