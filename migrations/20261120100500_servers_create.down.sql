DROP TABLE mcp_fabric.servers;
