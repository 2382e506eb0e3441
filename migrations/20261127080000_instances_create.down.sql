DROP TABLE mcp_fabric.server_eras;
DROP TABLE mcp_fabric.instances;
