DROP FUNCTION mcp_fabric.publish_event;
