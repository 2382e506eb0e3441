-- Owner: servers. Where the latest version of a server is offered by its publisher.
CREATE TABLE mcp_fabric.server_remotes (
    server_id text    COLLATE "C" NOT NULL REFERENCES mcp_fabric.servers (id) ON DELETE CASCADE,
    position  integer NOT NULL,
    type      text    NOT NULL,
    url       text    NOT NULL,
    PRIMARY KEY (server_id, position)
);
