-- Owner: bulk. What is wanted of each server: of a template, or of a file.
ALTER TABLE mcp_fabric.bulk_items ADD COLUMN wanted jsonb;
ALTER TABLE mcp_fabric.bulk_operations DROP CONSTRAINT bulk_operations_operation;
ALTER TABLE mcp_fabric.bulk_operations ADD CONSTRAINT bulk_operations_operation CHECK (operation IN
    ('enable', 'disable', 'start', 'stop', 'restart', 'install', 'upgrade', 'cache', 'delete', 'apply_template', 'export', 'import'));
