-- Owner: jobs. The finished steps of a job with what they gave, so that a restart does none of them twice.
CREATE TABLE mcp_fabric.job_steps (
    job_id      uuid        NOT NULL REFERENCES mcp_fabric.jobs (id) ON DELETE CASCADE,
    name        text        NOT NULL,
    output      jsonb       NOT NULL,
    finished_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, name)
);
