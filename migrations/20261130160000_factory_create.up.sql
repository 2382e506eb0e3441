-- Owner: factory. What was asked of it, until it is made, and what it made.
CREATE TABLE mcp_fabric.factory_orders (
    id         uuid        NOT NULL CONSTRAINT factory_orders_pkey PRIMARY KEY,
    job_id     uuid        CONSTRAINT factory_orders_job UNIQUE,
    -- As actors are written.
    owner      text        NOT NULL,
    -- The same, where it is a person.
    user_id    uuid        CONSTRAINT factory_orders_user REFERENCES identity.users (id) ON DELETE CASCADE,
    -- The token that was shown, if it was one.
    token      uuid,
    -- All but the document.
    wanted     jsonb       NOT NULL,
    document   bytea,
    created_at timestamptz NOT NULL,
    -- When its job failed: for a day it can be tried again.
    failed_at  timestamptz
);
CREATE INDEX factory_orders_user_id ON mcp_fabric.factory_orders (user_id);
ALTER TABLE mcp_fabric.factory_orders ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.factory_orders FORCE ROW LEVEL SECURITY;
CREATE POLICY factory_orders_own ON mcp_fabric.factory_orders USING (mcp_fabric.acts_for(owner));

-- Who may see it, `servers` says.
CREATE TABLE mcp_fabric.generated_servers (
    id             uuid        NOT NULL CONSTRAINT generated_servers_id UNIQUE,
    server_id      text        COLLATE "C" NOT NULL,
    version        text        NOT NULL,
    -- What it was made from; null for what was registered by a manifest without one.
    spec           jsonb,
    -- Of the specification without its version: the same one is not made twice.
    content_sha256 text,
    manifest       jsonb       NOT NULL,
    package_path   text,
    docker_image   text,
    claude_config  jsonb,
    -- Of the bundle in the package cache.
    bundle_sha256  text,
    created_at     timestamptz NOT NULL,
    updated_at     timestamptz NOT NULL,
    CONSTRAINT generated_servers_pkey PRIMARY KEY (server_id, version),
    CONSTRAINT generated_servers_version FOREIGN KEY (server_id, version)
        REFERENCES mcp_fabric.server_versions (server_id, version) ON DELETE CASCADE
);
