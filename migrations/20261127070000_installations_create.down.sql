DROP TABLE mcp_fabric.first_runs;
DROP TABLE mcp_fabric.installations;
DROP TABLE mcp_fabric.package_folders;
