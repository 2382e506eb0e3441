-- Owner: configurations. What somebody wants of a server: desired state, one row for each owner and server.
CREATE TABLE mcp_fabric.configurations (
    id           uuid        NOT NULL CONSTRAINT configurations_pkey PRIMARY KEY,
    -- As actors are written: `user:<uuid>`, `operator`.
    owner        text        NOT NULL,
    server_id    text        NOT NULL CONSTRAINT configurations_server REFERENCES mcp_fabric.servers (id),
    -- Of the server: a name that comes back inherits no configuration.
    incarnation  integer     NOT NULL,
    enabled      boolean     NOT NULL DEFAULT false,
    -- By the name of the input; secret ones are in the vault.
    input_values jsonb       NOT NULL DEFAULT '{}' CONSTRAINT configurations_values CHECK (jsonb_typeof(input_values) = 'object'),
    memory_bytes bigint      CONSTRAINT configurations_memory CHECK (memory_bytes > 0),
    cpu_millis   integer     CONSTRAINT configurations_cpu CHECK (cpu_millis > 0),
    processes    integer     CONSTRAINT configurations_processes CHECK (processes > 0),
    restart      text        NOT NULL DEFAULT 'on_failure' CONSTRAINT configurations_restart CHECK (restart IN ('always', 'on_failure', 'never')),
    lifecycle    text        NOT NULL DEFAULT 'persistent'
                 CONSTRAINT configurations_lifecycle CHECK (lifecycle IN ('persistent', 'on_demand', 'per_session')),
    sharing      text        NOT NULL DEFAULT 'per_user' CONSTRAINT configurations_sharing CHECK (sharing IN ('shared', 'per_user', 'per_session')),
    status       text        NOT NULL DEFAULT 'active' CONSTRAINT configurations_status CHECK (status IN ('active', 'archived')),
    -- 0 only within the transaction that makes the row.
    revision     bigint      NOT NULL DEFAULT 0,
    created_at   timestamptz NOT NULL,
    updated_at   timestamptz NOT NULL,
    CONSTRAINT configurations_of_server UNIQUE (owner, server_id),
    CONSTRAINT configurations_archived_off CHECK (status = 'active' OR NOT enabled)
);
CREATE INDEX configurations_server_id ON mcp_fabric.configurations (server_id);
ALTER TABLE mcp_fabric.configurations ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.configurations FORCE ROW LEVEL SECURITY;
CREATE POLICY configurations_own ON mcp_fabric.configurations USING (mcp_fabric.acts_for(owner));
