-- Owner: configurations. What somebody wants of servers, whichever they are.
CREATE TABLE mcp_fabric.templates (
    id          uuid        NOT NULL CONSTRAINT templates_pkey PRIMARY KEY,
    -- As actors are written.
    owner       text        NOT NULL,
    -- The same, where it is a person.
    user_id     uuid        CONSTRAINT templates_user REFERENCES identity.users (id) ON DELETE CASCADE,
    name        text        NOT NULL CONSTRAINT templates_name_length CHECK (name <> '' AND length(name) <= 100),
    description text        NOT NULL DEFAULT '',
    -- As a change of a configuration; without secrets.
    settings    jsonb       NOT NULL CONSTRAINT templates_settings CHECK (jsonb_typeof(settings) = 'object'),
    -- Everybody may use it.
    shared      boolean     NOT NULL DEFAULT false,
    revision    bigint      NOT NULL DEFAULT 1,
    created_at  timestamptz NOT NULL,
    updated_at  timestamptz NOT NULL,
    CONSTRAINT templates_name UNIQUE (owner, name)
);
CREATE INDEX templates_user_id ON mcp_fabric.templates (user_id);
ALTER TABLE mcp_fabric.templates ENABLE ROW LEVEL SECURITY;
ALTER TABLE mcp_fabric.templates FORCE ROW LEVEL SECURITY;
CREATE POLICY templates_own ON mcp_fabric.templates USING (shared OR mcp_fabric.acts_for(owner)) WITH CHECK (mcp_fabric.acts_for(owner));
