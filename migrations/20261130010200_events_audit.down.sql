DROP FUNCTION mcp_fabric.grant_roles(text);
