-- Owner: runtime. Running servers, and how each of them speaks.
CREATE TABLE mcp_fabric.instances (
    id               uuid        NOT NULL CONSTRAINT instances_pkey PRIMARY KEY,
    -- What is wanted; a configuration has one instance for each session, and one for none.
    configuration_id uuid        NOT NULL,
    session          text        NOT NULL DEFAULT '',
    -- As actors are written.
    owner            text        NOT NULL,
    server_id        text        NOT NULL CONSTRAINT instances_server REFERENCES mcp_fabric.servers (id),
    -- The fabric that runs it, as long as its lease stands.
    node_id          text        NOT NULL,
    lease_until      timestamptz NOT NULL,
    backend          text        NOT NULL CONSTRAINT instances_backend CHECK (backend IN ('process', 'container', 'remote')),
    state            text        NOT NULL
                     CONSTRAINT instances_state CHECK (state IN ('PENDING', 'CREATING', 'STARTING', 'RUNNING', 'STOPPING', 'STOPPED', 'FAILED')),
    reason_code      text,
    reason           text,
    since            timestamptz NOT NULL,
    attempt          integer     NOT NULL DEFAULT 0,
    next_try_at      timestamptz,
    restarts         bigint      NOT NULL DEFAULT 0,
    pid              integer,
    -- As the engine calls it.
    container        text,
    version          text,
    era              text        CONSTRAINT instances_era CHECK (era IN ('legacy', 'modern')),
    tools            integer,
    limits           jsonb,
    created_at       timestamptz NOT NULL,
    CONSTRAINT instances_of_configuration UNIQUE (configuration_id, session)
);
CREATE INDEX instances_server_id ON mcp_fabric.instances (server_id);
CREATE INDEX instances_owner ON mcp_fabric.instances (owner);
ALTER TABLE mcp_fabric.instances ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.instances FORCE ROW LEVEL SECURITY;
CREATE POLICY instances_own ON mcp_fabric.instances USING (mcp_fabric.acts_for(owner));

-- The era of the protocol that a version of a server speaks: learned once, since asking costs a start.
CREATE TABLE mcp_fabric.server_eras (
    server_id  text        NOT NULL CONSTRAINT server_eras_server REFERENCES mcp_fabric.servers (id),
    version    text        NOT NULL,
    era        text        NOT NULL CONSTRAINT server_eras_era CHECK (era IN ('legacy', 'modern')),
    learned_at timestamptz NOT NULL,
    CONSTRAINT server_eras_pkey PRIMARY KEY (server_id, version)
);
