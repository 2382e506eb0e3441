-- Owner: cache. What registries say takes room, too.
ALTER TABLE mcp_fabric.cache_documents ADD COLUMN size_bytes bigint NOT NULL DEFAULT 0;
