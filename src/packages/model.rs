use std::collections::BTreeMap;

use cache::Wanted;
use chrono::{DateTime, Utc};
use serde::{Deserialize, Serialize};
use uuid::Uuid;

platform::id! {
    /// An installation.
    pub struct InstallationId;
}

platform::words! {
    /// Where an installation stands.
    pub enum Stage {
        /// A job is at it.
        Installing = "installing",
        /// It can be started.
        Installed = "installed",
        /// It could not be made runnable; `error` says why.
        Error = "error",
    }
}

/// What is run of a package; paths are below its tree.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "kind", rename_all = "snake_case")]
pub enum Entry {
    /// A script for Node.
    Node {
        /// `node_modules/<name>/dist/index.js`.
        path: String,
    },
    /// A program of its own.
    Program {
        /// `node_modules/<name>/bin/server`.
        path: String,
    },
    /// A console script of a virtual environment.
    Script {
        /// `venv/bin/<name>`.
        path: String,
    },
    /// A module of a virtual environment, run as `python -m`.
    Module {
        /// Its name.
        name: String,
    },
    /// What the manifest of a bundle says.
    Bundle(Bundle),
    /// A container image, by the digest of its manifest.
    Image {
        /// `docker.io/library/name`.
        name: String,
        /// `sha256:<hex>`.
        digest: String,
    },
}

/// How a bundle is run; see [`crate::bundle`].
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Bundle {
    /// What runs it.
    pub program: BundleProgram,
    /// With `${__dirname}` for its folder and `${user_config.<name>}` for what its user is asked.
    pub args: Vec<String>,
    /// The same.
    pub env: BTreeMap<String, String>,
    /// Where Python looks for modules, below its folder.
    pub python_path: Vec<String>,
    /// What its user is asked.
    pub inputs: Vec<BundleInput>,
}

/// What runs a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum BundleProgram {
    /// Node, with a script among the arguments.
    Node,
    /// Python, with a script or a module among the arguments.
    Python,
    /// A program of the bundle: its path below the tree.
    Own(String),
}

/// A member of the `user_config` of a bundle.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct BundleInput {
    /// Its name.
    pub name: String,
    /// For people.
    pub description: Option<String>,
    /// `string`, `number`, `boolean` or `filepath`.
    pub format: String,
    /// The server does not work without it.
    pub required: bool,
    /// It goes into the vault.
    pub secret: bool,
    /// There may be several, one a line.
    pub multiple: bool,
    /// What holds when nothing is given.
    pub default: Option<String>,
}

/// A package made runnable under the id of a server.
#[derive(Clone, Debug)]
pub struct Installation {
    /// Its row.
    pub id: InstallationId,
    /// Under which server.
    pub server_id: String,
    /// The server of the catalogue whose package it is.
    pub based_on: Option<String>,
    /// Which package, and of which version where that was asked for.
    pub package: Wanted,
    /// Below `packages`.
    pub folder: String,
    /// Instead of what the package says.
    pub command: Option<String>,
    /// Instead of what the catalogue's document says.
    pub args: Option<Vec<String>>,
    /// Plain values beside those of configurations.
    pub env: BTreeMap<String, String>,
    /// Names of the secret ones, which are in the vault.
    pub secret_env: Vec<String>,
    /// Where it stands.
    pub stage: Stage,
    /// What can be started; also while another version is being installed.
    pub runnable: Option<Runnable>,
    /// The constraint on what it needs that makes it start (`mcp<2`), where a known cure was applied.
    pub cure: Option<String>,
    /// Why it could not be made runnable.
    pub error: Option<(String, String)>,
    /// The job that works on it, or did last.
    pub job: Option<Uuid>,
    /// Who asked for it.
    pub installed_by: String,
    /// When it was first asked for.
    pub created_at: DateTime<Utc>,
    /// When it last changed.
    pub updated_at: DateTime<Utc>,
}

/// What an install made.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Runnable {
    /// The exact version.
    pub version: String,
    /// The digest of everything in its tree.
    pub tree: String,
    /// What is run of it.
    pub entry: Entry,
}

/// What is to be installed.
#[derive(Clone, Debug, Default)]
pub struct Order {
    /// The name of a package, or the id of a server of the catalogue.
    pub name: String,
    /// Without one, the newest, or the one that the catalogue names.
    pub version: Option<String>,
    /// The id of the server to be.
    pub server_name: Option<String>,
    /// `npm`, `pypi`, `oci`, `mcpb`; without one it is found out.
    pub registry_type: Option<String>,
    /// Instead of what the package says; for administrators.
    pub command: Option<String>,
    /// Instead of what the catalogue says.
    pub args: Option<Vec<String>>,
    /// Beside what configurations say.
    pub env: BTreeMap<String, String>,
    /// Whether it is to run.
    pub enabled: bool,
}

impl Order {
    /// Whether the package is to run as the catalogue says.
    pub(crate) fn is_plain(&self) -> bool {
        self.command.is_none() && self.args.is_none() && self.env.is_empty()
    }
}

impl Installation {
    /// The arguments that stand in the place of the document's; those of a bundle only follow its own.
    pub fn args_instead(&self) -> Option<&[String]> {
        let is_bundle = matches!(self.runnable, Some(Runnable { entry: Entry::Bundle(_), .. }));
        self.args.as_deref().filter(|_| !is_bundle)
    }

    /// Whether it is of this package, and of this version of it where that matters.
    pub(crate) fn has(&self, package: &Wanted, any_version: bool) -> bool {
        let is_same = self.package.registry_type == package.registry_type && self.package.identifier == package.identifier;
        is_same && (any_version || self.package.version == package.version)
    }
}

/// The folder of a package below `packages`: its name without `@`, with `-` for what else a folder's name cannot hold.
pub(crate) fn folder_of(name: &str) -> String {
    let plain = |c: char| if c.is_ascii_alphanumeric() || matches!(c, '.' | '_' | '-') { c } else { '-' };
    let folder: String = name.replace('@', "").chars().map(plain).collect();
    // A name that is nothing but dots leads elsewhere.
    if folder.trim_matches('.').is_empty() { format!("-{folder}") } else { folder }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn folders_are_what_the_requirements_show() {
        assert_eq!(folder_of("@missionsquad/mcp-github"), "missionsquad-mcp-github");
        assert_eq!(folder_of("mcp-server-time"), "mcp-server-time");
        assert_eq!(folder_of("docker.io/library/x"), "docker.io-library-x");
        assert_eq!(folder_of(".."), "-..");
    }

    proptest::proptest! {
        #[test]
        fn no_name_leads_out_of_the_folder(name in "\\PC*") {
            let folder = folder_of(&name);
            proptest::prop_assert!(!folder.contains('/') && folder != "." && folder != ".." && !folder.is_empty());
        }
    }
}
