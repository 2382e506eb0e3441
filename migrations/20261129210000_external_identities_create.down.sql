DROP TABLE identity.external_identities;
