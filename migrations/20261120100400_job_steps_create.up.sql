-- Owner: jobs. The finished steps of a job with what they gave, so that a restart does none of them twice.
CREATE TABLE mcp_fabric.job_steps (
    job_id      uuid        NOT NULL REFERENCES mcp_fabric.jobs (id) ON DELETE CASCADE,
    name        text        NOT NULL,
    output      jsonb       NOT NULL,
    finished_at timestamptz NOT NULL,
    PRIMARY KEY (job_id, name)
);

-- Who sees the job sees this.
ALTER TABLE mcp_fabric.job_steps ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.job_steps FORCE ROW LEVEL SECURITY;
CREATE POLICY job_steps_visible ON mcp_fabric.job_steps
    USING (EXISTS (SELECT FROM mcp_fabric.jobs WHERE jobs.id = job_id));
