-- Owner: oauth. What users have been authorised for at servers elsewhere; tokens and other secrets are in the vault.
CREATE TABLE mcp_fabric.oauth_grants (
    -- As actors are written.
    owner               text        NOT NULL,
    server_id           text        NOT NULL CONSTRAINT oauth_grants_server REFERENCES mcp_fabric.servers (id),
    issuer              text        NOT NULL,
    -- The server as its tokens name it (RFC 8707).
    resource            text        NOT NULL,
    token_endpoint      text        NOT NULL,
    revocation_endpoint text,
    client_id           text        NOT NULL,
    scope               text,
    -- Of the access token, where it was stated.
    expires_at          timestamptz,
    -- The authorization server takes the refresh token no more.
    is_over             boolean     NOT NULL DEFAULT false,
    created_at          timestamptz NOT NULL,
    updated_at          timestamptz NOT NULL,
    CONSTRAINT oauth_grants_pkey PRIMARY KEY (owner, server_id)
);
ALTER TABLE mcp_fabric.oauth_grants ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.oauth_grants FORCE ROW LEVEL SECURITY;
CREATE POLICY oauth_grants_own ON mcp_fabric.oauth_grants USING (mcp_fabric.acts_for(owner));

-- Logins that were begun; each is used once, and soon.
CREATE TABLE mcp_fabric.oauth_logins (
    -- SHA-256 of the state that goes through the browser.
    state_hash          bytea       NOT NULL CONSTRAINT oauth_logins_pkey PRIMARY KEY,
    owner               text        NOT NULL,
    server_id           text        NOT NULL CONSTRAINT oauth_logins_server REFERENCES mcp_fabric.servers (id),
    issuer              text        NOT NULL,
    -- Whether the answer has to name the issuer (RFC 9207).
    names_issuer        boolean     NOT NULL,
    resource            text        NOT NULL,
    token_endpoint      text        NOT NULL,
    revocation_endpoint text,
    client_id           text        NOT NULL,
    redirect_uri        text        NOT NULL,
    expires_at          timestamptz NOT NULL
);
CREATE INDEX oauth_logins_expires_at ON mcp_fabric.oauth_logins (expires_at);
ALTER TABLE mcp_fabric.oauth_logins ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.oauth_logins FORCE ROW LEVEL SECURITY;
CREATE POLICY oauth_logins_own ON mcp_fabric.oauth_logins USING (mcp_fabric.acts_for(owner));

-- What this fabric is called by authorization servers where it registered itself (RFC 7591).
CREATE TABLE mcp_fabric.oauth_clients (
    issuer        text        NOT NULL,
    redirect_uri  text        NOT NULL,
    client_id     text        NOT NULL,
    registered_at timestamptz NOT NULL,
    CONSTRAINT oauth_clients_pkey PRIMARY KEY (issuer, redirect_uri)
);
