-- Owner: packages. Packages made runnable under the id of a server.

-- Which package a folder below `<data>/packages` is for: names that differ may want the same one.
CREATE TABLE mcp_fabric.package_folders (
    folder        text NOT NULL CONSTRAINT package_folders_pkey PRIMARY KEY,
    registry_type text NOT NULL,
    name          text NOT NULL,
    CONSTRAINT package_folders_package UNIQUE (folder, registry_type, name)
);

CREATE TABLE mcp_fabric.installations (
    id            uuid        NOT NULL CONSTRAINT installations_pkey PRIMARY KEY,
    server_id     text        NOT NULL CONSTRAINT installations_server_id UNIQUE
                  CONSTRAINT installations_server REFERENCES mcp_fabric.servers (id),
    -- The server of the catalogue whose package it is.
    based_on      text,
    registry_type text        NOT NULL CONSTRAINT installations_registry_type CHECK (registry_type IN ('npm', 'pypi', 'oci', 'mcpb')),
    name          text        NOT NULL,
    -- As it was asked for: a version, a tag, or nothing for the newest.
    asked         text,
    -- Of the file of a bundle, hexadecimal.
    sha256        text,
    folder        text        NOT NULL,
    -- Instead of what the package says; only administrators say so.
    command       text,
    args          text[],
    -- Plain values; secret ones are in the vault of whoever installed it.
    env           jsonb       NOT NULL DEFAULT '{}' CONSTRAINT installations_env CHECK (jsonb_typeof(env) = 'object'),
    secret_env    text[]      NOT NULL DEFAULT '{}',
    stage         text        NOT NULL CONSTRAINT installations_stage CHECK (stage IN ('installing', 'installed', 'error')),
    -- What is runnable, since the last install that ended well.
    version       text,
    tree          text,
    entry         jsonb,
    -- What makes it start where the newest of what it needs does not suit it: a constraint on that (`mcp<2`).
    cure          text,
    error_code    text,
    error         text,
    job_id        uuid,
    installed_by  text        NOT NULL,
    created_at    timestamptz NOT NULL,
    updated_at    timestamptz NOT NULL,
    CONSTRAINT installations_folder FOREIGN KEY (folder, registry_type, name)
        REFERENCES mcp_fabric.package_folders (folder, registry_type, name),
    CONSTRAINT installations_runnable CHECK (stage <> 'installed' OR (version IS NOT NULL AND tree IS NOT NULL AND entry IS NOT NULL))
);
CREATE INDEX installations_name ON mcp_fabric.installations (name);

-- What was installed by itself once, by the server's name: what people removed since does not come back.
CREATE TABLE mcp_fabric.first_runs (
    server_id text        NOT NULL CONSTRAINT first_runs_pkey PRIMARY KEY,
    at        timestamptz NOT NULL
);
