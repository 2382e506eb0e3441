DROP TABLE mcp_fabric.configurations;
