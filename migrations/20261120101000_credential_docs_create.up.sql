-- Owner: servers. What the latest version of a server wants to be told: environment variables, headers, arguments.
CREATE TABLE mcp_fabric.credential_docs (
    server_id     text    COLLATE "C" NOT NULL REFERENCES mcp_fabric.servers (id) ON DELETE CASCADE,
    position      integer NOT NULL,
    location      text    NOT NULL,
    env_var       text    NOT NULL,
    description   text,
    required      boolean NOT NULL,
    secret        boolean NOT NULL,
    format        text    NOT NULL,
    choices       text[],
    default_value text,
    PRIMARY KEY (server_id, position),
    CONSTRAINT credential_docs_location CHECK (location IN ('env', 'header', 'argument'))
);

CREATE VIEW mcp_fabric.server_env_vars WITH (security_invoker = true) AS
    SELECT server_id, position, env_var AS name, description, required, secret, format, choices, default_value
    FROM mcp_fabric.credential_docs
    WHERE location = 'env';
