DROP TABLE mcp_fabric.job_log;
