DROP TABLE mcp_fabric.cache_names;
