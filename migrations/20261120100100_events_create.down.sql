DROP TABLE mcp_fabric.events;
