DROP TABLE mcp_fabric.bulk_items;
DROP TABLE mcp_fabric.bulk_operations;
