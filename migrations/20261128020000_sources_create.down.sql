DROP TABLE mcp_fabric.sources;
