DROP FUNCTION mcp_fabric.settle_searches();
DROP TABLE mcp_fabric.servers;
