-- Owner: sources. Data sources of users: what virtual servers may reach.
CREATE TABLE mcp_fabric.sources (
    id              uuid        NOT NULL CONSTRAINT sources_pkey PRIMARY KEY,
    -- As actors are written: `user:<uuid>`, `operator`.
    owner           text        NOT NULL,
    -- The same, where it is a person; gone with them.
    user_id         uuid        CONSTRAINT sources_user REFERENCES identity.users (id) ON DELETE CASCADE,
    type            text        NOT NULL CONSTRAINT sources_type CHECK (type <> '' AND length(type) <= 255),
    -- `[secret]` where the vault has the value.
    source_metadata jsonb       NOT NULL DEFAULT '{}' CONSTRAINT sources_metadata CHECK (jsonb_typeof(source_metadata) = 'object'),
    revision        bigint      NOT NULL DEFAULT 1,
    created_at      timestamptz NOT NULL,
    updated_at      timestamptz NOT NULL
);
CREATE INDEX sources_owner ON mcp_fabric.sources (owner, id);
CREATE INDEX sources_user_id ON mcp_fabric.sources (user_id);
ALTER TABLE mcp_fabric.sources ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.sources FORCE ROW LEVEL SECURITY;
CREATE POLICY sources_own ON mcp_fabric.sources USING (mcp_fabric.acts_for(owner));
