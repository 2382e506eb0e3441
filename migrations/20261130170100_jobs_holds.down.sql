DROP FUNCTION mcp_fabric.holds_job;
