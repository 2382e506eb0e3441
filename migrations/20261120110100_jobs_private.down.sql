ALTER POLICY jobs_own ON mcp_fabric.jobs RENAME TO jobs_visible;
