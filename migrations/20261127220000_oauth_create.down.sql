DROP TABLE mcp_fabric.oauth_clients;
DROP TABLE mcp_fabric.oauth_logins;
DROP TABLE mcp_fabric.oauth_grants;
