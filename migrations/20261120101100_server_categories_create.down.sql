DROP VIEW mcp_fabric.server_categories;
