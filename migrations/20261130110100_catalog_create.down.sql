DROP TRIGGER servers_judge ON mcp_fabric.servers;
DROP TABLE mcp_fabric.catalog_rules;
DROP TABLE mcp_fabric.catalog_revisions;
DROP FUNCTION mcp_fabric.servers_judge_all();
DROP FUNCTION mcp_fabric.servers_judge();
DROP FUNCTION mcp_fabric.catalog_denies(text);
