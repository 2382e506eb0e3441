-- Owner: servers. What a server wants to be told that its package says and its document does not, such as the
-- `user_config` of a bundle: known once it is installed.
CREATE TABLE mcp_fabric.installed_inputs (
    server_id text  NOT NULL CONSTRAINT installed_inputs_pkey PRIMARY KEY CONSTRAINT installed_inputs_server REFERENCES mcp_fabric.servers (id),
    inputs    jsonb NOT NULL
);
