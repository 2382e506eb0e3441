-- Owner: jobs. Durable background work: claimed with SKIP LOCKED, kept alive by a lease.
CREATE TABLE mcp_fabric.jobs (
    id            uuid        PRIMARY KEY,
    kind          text        NOT NULL,
    status        text        NOT NULL DEFAULT 'pending',
    priority      smallint    NOT NULL DEFAULT 0,
    payload       jsonb       NOT NULL,
    singleton_key text,
    progress      jsonb,
    result        jsonb,
    error         jsonb,
    attempt       integer     NOT NULL DEFAULT 0,
    cancel_requested boolean  NOT NULL DEFAULT false,
    run_at        timestamptz NOT NULL,
    lease_owner   text,
    lease_token   uuid,
    leased_until  timestamptz,
    created_by    text        NOT NULL,
    created_at    timestamptz NOT NULL,
    started_at    timestamptz,
    completed_at  timestamptz,
    CONSTRAINT jobs_status CHECK (status IN ('pending', 'processing', 'complete', 'failed', 'cancelled', 'needs_input')),
    CONSTRAINT jobs_leased CHECK ((status = 'processing') = (lease_token IS NOT NULL)),
    CONSTRAINT jobs_completed CHECK ((status IN ('pending', 'processing')) = (completed_at IS NULL))
);

-- At most one unfinished job of a singleton.
CREATE UNIQUE INDEX jobs_singleton ON mcp_fabric.jobs (singleton_key)
    WHERE status IN ('pending', 'processing');
CREATE INDEX jobs_claim ON mcp_fabric.jobs (priority DESC, run_at, id) WHERE status = 'pending';
CREATE INDEX jobs_leases ON mcp_fabric.jobs (leased_until) WHERE status = 'processing';
CREATE INDEX jobs_retention ON mcp_fabric.jobs (completed_at) WHERE completed_at IS NOT NULL;

ALTER TABLE mcp_fabric.jobs ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.jobs FORCE ROW LEVEL SECURITY;
CREATE POLICY jobs_visible ON mcp_fabric.jobs USING (mcp_fabric.acts_for(created_by));
