-- Owner: virtual_servers. Named endpoints of users, each with the tools of a chosen set of sources and servers.
CREATE TABLE mcp_fabric.virtual_servers (
    id         uuid        NOT NULL CONSTRAINT virtual_servers_pkey PRIMARY KEY,
    -- As actors are written.
    owner      text        NOT NULL,
    -- The same, where it is a person; gone with them.
    user_id    uuid        CONSTRAINT virtual_servers_user REFERENCES identity.users (id) ON DELETE CASCADE,
    name       text        NOT NULL CONSTRAINT virtual_servers_name CHECK (name <> '' AND length(name) <= 255),
    -- A domain of the pool, or a path of this fabric.
    endpoint   text        NOT NULL,
    source_ids text[]      NOT NULL DEFAULT '{}',
    server_ids text[]      NOT NULL DEFAULT '{}',
    prefix     text        NOT NULL DEFAULT 'server' CONSTRAINT virtual_servers_prefix CHECK (prefix IN ('server', 'none')),
    -- Names of tools that are offered; all where there are none.
    tools      text[]      NOT NULL DEFAULT '{}',
    -- Names of tools, and what they are called instead.
    renamed    jsonb       NOT NULL DEFAULT '{}' CONSTRAINT virtual_servers_renamed CHECK (jsonb_typeof(renamed) = 'object'),
    revision   bigint      NOT NULL DEFAULT 1,
    created_at timestamptz NOT NULL,
    updated_at timestamptz NOT NULL,
    deleted_at timestamptz
);
CREATE INDEX virtual_servers_owner ON mcp_fabric.virtual_servers (owner, id);
CREATE INDEX virtual_servers_user_id ON mcp_fabric.virtual_servers (user_id);
-- An endpoint is one server's at a time.
CREATE UNIQUE INDEX virtual_servers_endpoint ON mcp_fabric.virtual_servers (endpoint) WHERE deleted_at IS NULL;
ALTER TABLE mcp_fabric.virtual_servers ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.virtual_servers FORCE ROW LEVEL SECURITY;
CREATE POLICY virtual_servers_own ON mcp_fabric.virtual_servers USING (mcp_fabric.acts_for(owner));

-- A source that goes is in no virtual server any more.
CREATE FUNCTION mcp_fabric.forget_source() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    UPDATE mcp_fabric.virtual_servers SET source_ids = array_remove(source_ids, OLD.id::text), revision = revision + 1, updated_at = now()
    WHERE owner = OLD.owner AND OLD.id::text = ANY (source_ids);
    RETURN NULL;
END $$;
CREATE TRIGGER sources_forgotten AFTER DELETE ON mcp_fabric.sources FOR EACH ROW EXECUTE FUNCTION mcp_fabric.forget_source();
