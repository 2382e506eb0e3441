-- Owner: sync. One row for each run of the mirror: where it stands and what it did.
CREATE TABLE mcp_fabric.sync_history (
    id              uuid        PRIMARY KEY,
    job_id          uuid,
    kind            text        NOT NULL,
    status          text        NOT NULL,
    phase           text        NOT NULL,
    upstream        text        NOT NULL,
    started_at      timestamptz NOT NULL,
    finished_at     timestamptz,
    updated_since   timestamptz,
    cursor          text,
    -- Changes with every attempt; a page is only saved by the attempt that holds it.
    fence           uuid        NOT NULL,
    pages           integer     NOT NULL DEFAULT 0,
    seen            integer     NOT NULL DEFAULT 0,
    inserted        integer     NOT NULL DEFAULT 0,
    updated         integer     NOT NULL DEFAULT 0,
    deleted         integer     NOT NULL DEFAULT 0,
    skipped         integer     NOT NULL DEFAULT 0,
    skipped_entries jsonb       NOT NULL DEFAULT '[]',
    error           jsonb,
    CONSTRAINT sync_history_kind CHECK (kind IN ('full', 'incremental', 'reconcile', 'import')),
    CONSTRAINT sync_history_status CHECK (status IN ('running', 'complete', 'failed', 'cancelled')),
    CONSTRAINT sync_history_phase CHECK (phase IN ('latest', 'all', 'changes', 'sweep', 'done'))
);

CREATE INDEX sync_history_started ON mcp_fabric.sync_history (started_at DESC);
