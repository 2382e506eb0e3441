DELETE FROM mcp_fabric.bulk_operations WHERE operation IN ('apply_template', 'export', 'import');
ALTER TABLE mcp_fabric.bulk_operations DROP CONSTRAINT bulk_operations_operation;
ALTER TABLE mcp_fabric.bulk_operations ADD CONSTRAINT bulk_operations_operation
    CHECK (operation IN ('enable', 'disable', 'start', 'stop', 'restart', 'install', 'upgrade', 'cache', 'delete'));
ALTER TABLE mcp_fabric.bulk_items DROP COLUMN wanted;
