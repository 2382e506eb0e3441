DROP TABLE mcp_fabric.cache_documents;
