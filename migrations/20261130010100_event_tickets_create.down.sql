DROP TABLE mcp_fabric.event_tickets;
