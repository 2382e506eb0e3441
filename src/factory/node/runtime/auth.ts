// Credentials come from the environment when they are needed, so that a server without them still starts and lists its tools.

import { encoded, textOf } from "./request.js";
import { isObject, ToolError, type Json, type Scheme } from "./types.js";

export interface Credentials {
  readonly headers: readonly (readonly [string, string])[];
  readonly query: readonly string[];
  readonly cookies: readonly string[];
  /** The variables that they came from. */
  readonly from: readonly string[];
  /** What nobody is to be told, each with what is told instead. */
  readonly secrets: readonly (readonly [string, string])[];
}

const NONE: Credentials = { headers: [], query: [], cookies: [], from: [], secrets: [] };

export function variable(name: string): string | undefined {
  const value = process.env[name]?.trim();
  // Some clients leave a placeholder where their user gave nothing.
  return value === "" || value?.startsWith("${") === true ? undefined : value;
}

export function variablesOf(scheme: Scheme): readonly string[] {
  switch (scheme.kind) {
    case "api_key":
    case "bearer":
      return [scheme.env];
    case "basic":
      return [scheme.username_env, scheme.password_env];
    case "client_credentials":
      return [scheme.client_id_env, scheme.client_secret_env];
  }
}

function isSet(scheme: Scheme): boolean {
  return variablesOf(scheme).every((name) => variable(name) !== undefined) || (scheme.kind === "client_credentials" && variable(scheme.env) !== undefined);
}

/** The credentials of the first set of schemes that the environment satisfies. */
export async function credentials(
  schemes: { readonly [scheme: string]: Scheme },
  security: readonly (readonly string[])[],
  signal: AbortSignal,
): Promise<Credentials> {
  const sets = security.map((names) => names.map((name) => schemes[name]).filter((scheme) => scheme !== undefined));
  const satisfied = sets.find((set) => set.length > 0 && set.every(isSet)) ?? sets.find((set) => set.length === 0);
  if (satisfied === undefined) {
    if (sets.length === 0) return NONE;
    const ways = sets.map((set) => set.flatMap(variablesOf).join(" and "));
    throw new ToolError(`This operation needs credentials. Set ${[...new Set(ways)].join(", or ")} in the environment of this server.`);
  }
  const found = await Promise.all(satisfied.map((scheme) => presented(scheme, signal)));
  return {
    headers: found.flatMap((one) => one.headers),
    query: found.flatMap((one) => one.query),
    cookies: found.flatMap((one) => one.cookies),
    from: satisfied.flatMap(variablesOf),
    secrets: found.flatMap((one) => one.secrets),
  };
}

async function presented(scheme: Scheme, signal: AbortSignal): Promise<Credentials> {
  const of = (name: string): readonly [string, string] => {
    const value = variable(name) ?? "";
    // Nothing of it is said: where it goes to is a log, or a model.
    if (/[^\t -~\u0080-\u00ff]/.test(value)) throw new ToolError(`${name} has characters in it that no request can have: set it anew.`);
    return [value, `[${name}]`];
  };
  const bearer = (token: string, label: string): Credentials => ({ ...NONE, headers: [["Authorization", `Bearer ${token}`]], secrets: [[token, label]] });
  switch (scheme.kind) {
    case "api_key": {
      const [key] = of(scheme.env);
      const secrets = [of(scheme.env)];
      if (scheme.in === "header") return { ...NONE, headers: [[scheme.name, key]], secrets };
      const pair = `${encoded(scheme.name)}=${encoded(key)}`;
      return scheme.in === "query" ? { ...NONE, query: [pair], secrets } : { ...NONE, cookies: [pair], secrets };
    }
    case "bearer":
      return bearer(...of(scheme.env));
    case "basic": {
      const both = basic(of(scheme.username_env)[0], of(scheme.password_env)[0]);
      return { ...NONE, headers: [["Authorization", both]], secrets: [of(scheme.password_env), [both.slice("Basic ".length), `[${scheme.password_env}]`]] };
    }
    case "client_credentials": {
      const given = variable(scheme.env) === undefined ? await token(scheme, signal) : of(scheme.env)[0];
      return { ...bearer(given, "[token]"), secrets: [[given, "[token]"], of(scheme.client_secret_env)] };
    }
  }
}

function basic(username: string | undefined, password: string | undefined): string {
  const bytes = new TextEncoder().encode(`${username ?? ""}:${password ?? ""}`);
  return `Basic ${btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))}`;
}

const tokens = new Map<string, { readonly token: string; readonly until: number }>();

/** A token of the client credentials grant (RFC 6749, section 4.4), kept until shortly before it ends. */
async function token(scheme: Scheme & { kind: "client_credentials" }, signal: AbortSignal): Promise<string> {
  const key = JSON.stringify([scheme.token_url, scheme.client_id_env, scheme.scopes]);
  const kept = tokens.get(key);
  if (kept !== undefined && kept.until > Date.now()) return kept.token;
  const form = new URLSearchParams({ grant_type: "client_credentials" });
  if (scheme.scopes.length > 0) form.set("scope", scheme.scopes.join(" "));
  const headers = {
    Accept: "application/json",
    Authorization: basic(encodeURIComponent(variable(scheme.client_id_env) ?? ""), encodeURIComponent(variable(scheme.client_secret_env) ?? "")),
    "Content-Type": "application/x-www-form-urlencoded",
  };
  const response = await fetch(scheme.token_url, { method: "POST", headers, body: form.toString(), redirect: "error", signal });
  if (!response.ok) {
    await response.body?.cancel();
    throw new ToolError(
      `No token: ${new URL(scheme.token_url).host} answered ${response.status}. Check ${scheme.client_id_env} and ${scheme.client_secret_env}.`,
    );
  }
  const answer = (await response.json()) as Json;
  const given = isObject(answer) ? answer["access_token"] : undefined;
  if (!isObject(answer) || typeof given !== "string") throw new ToolError(`No token: ${textOf(new URL(scheme.token_url).host)} gave none.`);
  const seconds = typeof answer["expires_in"] === "number" ? answer["expires_in"] : 300;
  tokens.set(key, { token: given, until: Date.now() + Math.max(0, seconds - 30) * 1000 });
  return given;
}

/** Forgets a token that was refused. */
export function forgetTokens(): void {
  tokens.clear();
}
