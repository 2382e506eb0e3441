//! The rules of each kind of package registry.

use super::{ExpectedRegistries, IssueType, mcpb, oci, place::Place, report::Issues};

/// The official registry wants the service index and takes the bare host, too.
const NUGET: [&str; 2] = ["https://api.nuget.org/v3/index.json", "https://api.nuget.org"];

/// The registries that the official one knows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum RegistryType {
    Npm,
    Pypi,
    Nuget,
    Cargo,
    Oci,
    Mcpb,
}

impl RegistryType {
    fn read(text: &str) -> Option<Self> {
        Some(match text {
            "npm" => Self::Npm,
            "pypi" => Self::Pypi,
            "nuget" => Self::Nuget,
            "cargo" => Self::Cargo,
            "oci" => Self::Oci,
            "mcpb" => Self::Mcpb,
            _ => return None,
        })
    }

    /// How messages name it.
    fn label(self) -> &'static str {
        match self {
            Self::Npm => "NPM",
            Self::Pypi => "PyPI",
            Self::Nuget => "NuGet",
            Self::Cargo => "cargo",
            Self::Oci => "OCI",
            Self::Mcpb => "MCPB",
        }
    }
}

/// Checks one package.
pub(super) fn check(package: &Place, expected: &ExpectedRegistries, issues: &mut Issues) {
    let Some(named) = package.text("registryType") else { return };
    let Some(registry) = RegistryType::read(named) else {
        let message = format!("unsupported registry type: {named}");
        return issues.semantic(&package.path_of("registryType"), "unsupported-registry-type", message);
    };
    check_identifier(package, registry, issues);
    match registry {
        RegistryType::Oci => oci::check(package, issues),
        RegistryType::Mcpb => return mcpb::check(package, issues),
        RegistryType::Npm | RegistryType::Pypi | RegistryType::Nuget | RegistryType::Cargo => {
            require_version(package, registry, issues);
            check_base_url(package, registry, named, expected, issues);
        }
    }
    // Only downloads without a registry need a hash of their own.
    if package.text("fileSha256").is_some_and(|hash| !hash.is_empty()) {
        let message = format!("{} packages must not have 'fileSha256' field - this is only for MCPB packages", registry.label());
        issues.semantic(&package.path_of("fileSha256"), "file-sha256-not-allowed", message);
    }
}

fn check_identifier(package: &Place, registry: RegistryType, issues: &mut Issues) {
    if package.text("identifier") == Some("") {
        let message = format!("package identifier is required for {} packages", registry.label());
        issues.semantic(&package.path_of("identifier"), "package-identifier-required", message);
    }
}

fn require_version(package: &Place, registry: RegistryType, issues: &mut Issues) {
    let is_there = package.value.get("version").is_some_and(|version| version != "");
    if !is_there {
        let message = format!("package version is required for {} packages", registry.label());
        issues.semantic(&package.path_of("version"), "package-version-required", message);
    }
}

fn check_base_url(package: &Place, registry: RegistryType, named: &str, expected: &ExpectedRegistries, issues: &mut Issues) {
    let url = package.text_or_empty("registryBaseUrl");
    if url.is_empty() {
        return;
    }
    let allowed: Vec<&str> = match registry {
        RegistryType::Npm => expected.npm.as_deref().into_iter().collect(),
        RegistryType::Pypi => expected.pypi.as_deref().into_iter().collect(),
        RegistryType::Nuget => NUGET.to_vec(),

        // The official documents state no base URL for cargo yet.
        RegistryType::Cargo => Vec::new(),
        RegistryType::Oci | RegistryType::Mcpb => return,
    };
    let path = package.path_of("registryBaseUrl");
    match allowed.first() {
        None => {
            let message = format!("could not be compared: the base URL that is expected for registry type '{named}' is not known here");
            issues.warning(IssueType::Linter, &path, "registry-base-url-not-compared", message);
        }
        Some(first) if !allowed.contains(&url) => {
            let message =
                format!("registry type and base URL do not match: '{url}' is not valid for registry type '{named}'. Expected: {first}");
            issues.semantic(&path, "registry-base-url-mismatch", message);
        }
        Some(_) => {}
    }
}
