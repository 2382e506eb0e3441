DROP TABLE mcp_fabric.cache_locks;
