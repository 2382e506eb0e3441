DROP SCHEMA identity CASCADE;
DROP FUNCTION mcp_fabric.touch();
