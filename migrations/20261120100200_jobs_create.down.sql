DROP TABLE mcp_fabric.jobs;
