-- Owner: jobs. Whether a worker still has a job: a condition of another feature's statement, which then is one message. The job
-- stays with the worker until the statement's transaction ends.
CREATE FUNCTION mcp_fabric.holds_job(p_job uuid, p_token uuid) RETURNS boolean LANGUAGE plpgsql AS $$
BEGIN
    PERFORM 1 FROM mcp_fabric.jobs WHERE id = p_job AND lease_token = p_token FOR SHARE;
    RETURN FOUND;
END
$$;
