-- Owner: jobs. Policies of tables whose rows are private end in `_own`; the start looks whether they hold.
ALTER POLICY jobs_visible ON mcp_fabric.jobs RENAME TO jobs_own;
