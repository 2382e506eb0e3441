DROP TABLE mcp_fabric.generated_servers;
DROP TABLE mcp_fabric.factory_orders;
