-- Owner: jobs. What a job said while it ran; goes with its job.
CREATE TABLE mcp_fabric.job_log (
    job_id  uuid        NOT NULL REFERENCES mcp_fabric.jobs (id) ON DELETE CASCADE,
    seq     bigint      GENERATED ALWAYS AS IDENTITY,
    at      timestamptz NOT NULL,
    level   text        NOT NULL,
    message text        NOT NULL,
    PRIMARY KEY (job_id, seq),
    CONSTRAINT job_log_level CHECK (level IN ('info', 'warn', 'error'))
);

-- Who sees the job sees this.
ALTER TABLE mcp_fabric.job_log ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.job_log FORCE ROW LEVEL SECURITY;
CREATE POLICY job_log_visible ON mcp_fabric.job_log
    USING (EXISTS (SELECT FROM mcp_fabric.jobs WHERE jobs.id = job_id));
