-- Owner: bulk. One action over many servers, and where each of them stands.
CREATE TABLE mcp_fabric.bulk_operations (
    id          uuid        NOT NULL CONSTRAINT bulk_operations_pkey PRIMARY KEY,
    -- As actors are written; what it does is done with the rights that they have by then.
    owner       text        NOT NULL,
    -- The token that was shown, if it was one: its limits hold as long as the operation.
    token       uuid,
    operation   text        NOT NULL CONSTRAINT bulk_operations_operation
                CHECK (operation IN ('enable', 'disable', 'start', 'stop', 'restart', 'install', 'upgrade', 'cache', 'delete')),
    direction   text        NOT NULL DEFAULT 'forward' CONSTRAINT bulk_operations_direction CHECK (direction IN ('forward', 'back')),
    -- All or nothing.
    atomic      boolean     NOT NULL,
    status      text        NOT NULL DEFAULT 'pending' CONSTRAINT bulk_operations_status
                CHECK (status IN ('pending', 'running', 'complete', 'partial', 'failed', 'cancelled', 'rolled_back')),
    job_id      uuid,
    -- Counts the jobs that it was given: only the last one works on it.
    generation  integer     NOT NULL DEFAULT 0,
    created_at  timestamptz NOT NULL,
    finished_at timestamptz
);
CREATE INDEX bulk_operations_owner ON mcp_fabric.bulk_operations (owner, id);
ALTER TABLE mcp_fabric.bulk_operations ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.bulk_operations FORCE ROW LEVEL SECURITY;
CREATE POLICY bulk_operations_own ON mcp_fabric.bulk_operations USING (mcp_fabric.acts_for(owner));

CREATE TABLE mcp_fabric.bulk_items (
    bulk_id     uuid        NOT NULL CONSTRAINT bulk_items_bulk REFERENCES mcp_fabric.bulk_operations (id) ON DELETE CASCADE,
    n           integer     NOT NULL,
    owner       text        NOT NULL,
    server_id   text        NOT NULL,
    status      text        NOT NULL DEFAULT 'pending' CONSTRAINT bulk_items_status
                CHECK (status IN ('pending', 'running', 'done', 'unchanged', 'failed', 'cancelled', 'rolled_back', 'kept')),
    -- What there was before anything was done.
    before      jsonb,
    error_code  text,
    error       text,
    result      jsonb,
    started_at  timestamptz,
    finished_at timestamptz,
    CONSTRAINT bulk_items_pkey PRIMARY KEY (bulk_id, n),
    CONSTRAINT bulk_items_server UNIQUE (bulk_id, server_id)
);
ALTER TABLE mcp_fabric.bulk_items ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.bulk_items FORCE ROW LEVEL SECURITY;
CREATE POLICY bulk_items_own ON mcp_fabric.bulk_items USING (mcp_fabric.acts_for(owner));
