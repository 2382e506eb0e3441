ALTER TABLE mcp_fabric.cache_documents DROP COLUMN size_bytes;
