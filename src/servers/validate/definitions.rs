//! The schema of server.json of 2025-12-11, as tables.

/// The address of the schema that the tables below state.
pub const CURRENT_SCHEMA: &str = "https://static.modelcontextprotocol.io/schemas/2025-12-11/server.schema.json";
/// The only member of `_meta` that the official registry keeps.
pub(super) const PUBLISHER_PROVIDED: &str = "io.modelcontextprotocol.registry/publisher-provided";

/// What a value must be.
#[derive(Debug)]
pub(super) enum Rule {
    /// A string.
    Text(Text),
    /// `true` or `false`.
    Flag,
    /// An object with any content.
    AnyObject,
    /// An array whose elements follow a rule.
    List(&'static Rule),
    /// An object whose members are named freely and follow a rule.
    Map(&'static Rule),
    /// An object with these members and no others.
    Object(Layers),
    /// An object with these members; others are dropped.
    OpenObject(Layers),
    /// An object whose `type` says which members it has.
    Variants(&'static [Variant]),
}

/// Groups of members that are found together in one object.
pub(super) type Layers = &'static [&'static [Member]];

/// A member of an object.
#[derive(Debug)]
pub(super) struct Member {
    pub(super) name: &'static str,
    pub(super) is_required: bool,
    pub(super) rule: Rule,
}

/// One of the forms of an object, told apart by its `type`.
#[derive(Debug)]
pub(super) struct Variant {
    pub(super) kind: &'static str,
    pub(super) layers: Layers,
    /// At least one of these must be there, unless there are none.
    pub(super) any_of: &'static [&'static str],
}

/// What a string must be like. Lengths are in characters.
#[derive(Debug)]
pub(super) struct Text {
    pub(super) min: usize,
    pub(super) max: usize,
    pub(super) form: Form,
}

/// What a string must look like.
#[derive(Debug)]
pub(super) enum Form {
    Any,
    Uri,
    OneOf(&'static [&'static str]),
    /// `^[a-zA-Z0-9.-]+/[a-zA-Z0-9._-]+$`
    ServerName,
    /// `^[a-f0-9]{64}$`
    Sha256,
    /// `^(\d+x\d+|any)$`
    IconSize,
    /// `^https?://[^\s]+$`
    HttpUrl,
}

const TEXT: Rule = text(Form::Any);
const URI: Rule = text(Form::Uri);

const fn text(form: Form) -> Rule {
    sized(0, usize::MAX, form)
}

const fn sized(min: usize, max: usize, form: Form) -> Rule {
    Rule::Text(Text { min, max, form })
}

const fn must(name: &'static str, rule: Rule) -> Member {
    Member { name, is_required: true, rule }
}

const fn may(name: &'static str, rule: Rule) -> Member {
    Member { name, is_required: false, rule }
}

/// A whole server.json. Its `$schema` is looked at apart, as an older one is only worth a warning.
pub(super) static SERVER: Rule = Rule::Object(&[&[
    may("$schema", TEXT),
    must("name", sized(3, 200, Form::ServerName)),
    must("description", sized(1, 100, Form::Any)),
    must("version", sized(0, 255, Form::Any)),
    may("title", sized(1, 100, Form::Any)),
    may("websiteUrl", URI),
    may("repository", Rule::Object(&[REPOSITORY])),
    may("icons", Rule::List(&Rule::Object(&[ICON]))),
    may("packages", Rule::List(&Rule::Object(&[PACKAGE]))),
    may("remotes", Rule::List(&Rule::Variants(REMOTE_TRANSPORTS))),
    may("_meta", Rule::OpenObject(&[&[may(PUBLISHER_PROVIDED, Rule::AnyObject)]])),
]]);

static REPOSITORY: &[Member] = &[must("url", URI), must("source", TEXT), may("id", TEXT), may("subfolder", TEXT)];

static ICON: &[Member] = &[
    must("src", sized(0, 255, Form::Uri)),
    may("mimeType", text(Form::OneOf(&["image/png", "image/jpeg", "image/jpg", "image/svg+xml", "image/webp"]))),
    may("sizes", Rule::List(&text(Form::IconSize))),
    may("theme", text(Form::OneOf(&["light", "dark"]))),
];

// That a version is not `latest` is also a rule about content, which says so more clearly.
static PACKAGE: &[Member] = &[
    must("registryType", TEXT),
    must("identifier", TEXT),
    must("transport", Rule::Variants(LOCAL_TRANSPORTS)),
    may("registryBaseUrl", URI),
    may("version", sized(1, usize::MAX, Form::Any)),
    may("fileSha256", text(Form::Sha256)),
    may("runtimeHint", TEXT),
    may("runtimeArguments", ARGUMENTS),
    may("packageArguments", ARGUMENTS),
    may("environmentVariables", KEY_VALUE_INPUTS),
];

static INPUT: &[Member] = &[
    may("description", TEXT),
    may("isRequired", Rule::Flag),
    may("format", text(Form::OneOf(&["string", "number", "boolean", "filepath"]))),
    may("value", TEXT),
    may("isSecret", Rule::Flag),
    may("default", TEXT),
    may("placeholder", TEXT),
    may("choices", Rule::List(&TEXT)),
];

static VARIABLES: &[Member] = &[may("variables", Rule::Map(&Rule::Object(&[INPUT])))];

const KEY_VALUE_INPUTS: Rule = Rule::List(&Rule::Object(&[INPUT, VARIABLES, &[must("name", TEXT)]]));

const ARGUMENTS: Rule = Rule::List(&Rule::Variants(&[
    Variant { kind: "positional", layers: &[INPUT, VARIABLES, POSITIONAL], any_of: &["valueHint", "value"] },
    Variant { kind: "named", layers: &[INPUT, VARIABLES, NAMED], any_of: &[] },
]));

// The schema lets both kinds of arguments have the other's member; a rule about content forbids one of the two cases.
static POSITIONAL: &[Member] = &[must("type", TEXT), may("valueHint", TEXT), may("name", TEXT), may("isRepeated", Rule::Flag)];
static NAMED: &[Member] = &[must("type", TEXT), must("name", TEXT), may("valueHint", TEXT), may("isRepeated", Rule::Flag)];

static LOCAL_TRANSPORTS: &[Variant] = &[
    Variant { kind: "stdio", layers: &[STDIO_TRANSPORT, VARIABLES], any_of: &[] },
    Variant { kind: "streamable-http", layers: &[HTTP_TRANSPORT, VARIABLES], any_of: &[] },
    Variant { kind: "sse", layers: &[HTTP_TRANSPORT, VARIABLES], any_of: &[] },
];

static REMOTE_TRANSPORTS: &[Variant] = &[
    Variant { kind: "streamable-http", layers: &[HTTP_TRANSPORT, VARIABLES], any_of: &[] },
    Variant { kind: "sse", layers: &[HTTP_TRANSPORT, VARIABLES], any_of: &[] },
];

// The schema does not forbid a URL here; a rule about content does.
static STDIO_TRANSPORT: &[Member] = &[must("type", TEXT), may("url", TEXT), may("headers", KEY_VALUE_INPUTS)];
static HTTP_TRANSPORT: &[Member] = &[must("type", TEXT), must("url", text(Form::HttpUrl)), may("headers", KEY_VALUE_INPUTS)];
