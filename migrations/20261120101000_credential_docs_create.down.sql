DROP VIEW mcp_fabric.server_env_vars;
DROP TABLE mcp_fabric.credential_docs;
