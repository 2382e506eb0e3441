-- Owner: cache. What a package is to consist of is known before it comes in, and how far its claims were checked is kept.
ALTER TABLE mcp_fabric.cache_artifacts
    ADD COLUMN is_planned   boolean NOT NULL DEFAULT false,
    ADD COLUMN is_pinned    boolean NOT NULL DEFAULT false,
    ADD COLUMN published_at timestamptz,
    -- When it was first heard of.
    ADD COLUMN seen_at      timestamptz NOT NULL DEFAULT now(),
    ADD COLUMN signature    text NOT NULL DEFAULT 'none',
    ADD COLUMN provenance   text NOT NULL DEFAULT 'none',
    DROP CONSTRAINT cache_artifacts_status,
    ADD CONSTRAINT cache_artifacts_status CHECK (status IN ('not_cached', 'downloading', 'cached', 'failed')),
    ADD CONSTRAINT cache_artifacts_signature CHECK (signature IN ('none', 'stated', 'verified', 'invalid')),
    ADD CONSTRAINT cache_artifacts_provenance CHECK (provenance IN ('none', 'stated', 'verified', 'invalid'));

-- Parts of images are asked for without the image that they belong to.
CREATE INDEX cache_artifacts_part ON mcp_fabric.cache_artifacts (name, file_name) WHERE registry_type = 'oci';
-- What was not used for longest goes first.
CREATE INDEX cache_artifacts_last_used ON mcp_fabric.cache_artifacts (last_used_at) WHERE status = 'cached';
