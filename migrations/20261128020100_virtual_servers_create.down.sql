DROP TRIGGER sources_forgotten ON mcp_fabric.sources;
DROP FUNCTION mcp_fabric.forget_source();
DROP TABLE mcp_fabric.virtual_servers;
