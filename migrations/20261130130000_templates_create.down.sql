DROP TABLE mcp_fabric.templates;
