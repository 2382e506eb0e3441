-- Owner: servers. A package that is cached is marked wherever it is named, in any spelling of its name.
CREATE INDEX server_packages_identifier ON mcp_fabric.server_packages (registry_type, lower(regexp_replace(identifier, '[-_.]+', '-', 'g')));
