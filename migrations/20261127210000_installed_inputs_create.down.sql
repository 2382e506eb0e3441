DROP TABLE mcp_fabric.installed_inputs;
