DROP INDEX mcp_fabric.cache_artifacts_last_used;
DROP INDEX mcp_fabric.cache_artifacts_part;
DELETE FROM mcp_fabric.cache_artifacts WHERE status = 'not_cached';
ALTER TABLE mcp_fabric.cache_artifacts
    DROP CONSTRAINT cache_artifacts_provenance,
    DROP CONSTRAINT cache_artifacts_signature,
    DROP CONSTRAINT cache_artifacts_status,
    ADD CONSTRAINT cache_artifacts_status CHECK (status IN ('downloading', 'cached', 'failed')),
    DROP COLUMN provenance,
    DROP COLUMN signature,
    DROP COLUMN seen_at,
    DROP COLUMN published_at,
    DROP COLUMN is_pinned,
    DROP COLUMN is_planned;
