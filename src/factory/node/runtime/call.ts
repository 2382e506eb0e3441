// Sends a request, and tells the model what came of it.

import { credentials, forgetTokens, variable, type Credentials } from "./auth.js";
import { build, encoded, type Request } from "./request.js";
import { failed, isObject, ToolError, type Base, type GraphqlAction, type HttpAction, type Json, type JsonObject, type Result, type Server } from "./types.js";

/** What a client can take of one answer, in characters. */
const MOST_TEXT = 25_000;
/** What is read of one answer, in bytes. */
const MOST_BYTES = 8 << 20;
const RETRIED = new Set([429, 502, 503, 504]);
const REPEATABLE = new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);
const ATTEMPTS = 3;
const LONGEST_WAIT = 10_000;
const MOST_REDIRECTS = 5;

function timeout(): number {
  const seconds = Number(variable("MCP_TIMEOUT_SECONDS") ?? "30");
  return (Number.isFinite(seconds) && seconds > 0 ? seconds : 30) * 1000;
}

function baseOf(base: Base | undefined): URL {
  const given = base === undefined ? undefined : (variable(base.env) ?? base.url ?? undefined);
  if (given === undefined) throw new ToolError(`The address of the API is not known. Set ${base?.env ?? "it"} in the environment of this server.`);
  if (!URL.canParse(given)) throw new ToolError(`${base?.env ?? "The address"} is not an address: it has to look like https://host/path.`);
  const url = new URL(given);
  const isLoopback = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (url.protocol !== "https:" && !(url.protocol === "http:" && (isLoopback || variable("MCP_ALLOW_HTTP") === "1"))) {
    throw new ToolError(`${url.host} is not asked without encryption. Set ${base?.env ?? "it"} to an https address, or MCP_ALLOW_HTTP=1.`);
  }
  return url;
}

export async function callHttp(server: Server, action: HttpAction, args: JsonObject, shape: JsonObject | undefined, signal: AbortSignal): Promise<Result> {
  return exchange(server, action, build(action, args), action.accept, shape, signal);
}

export async function callGraphql(server: Server, action: GraphqlAction, args: JsonObject, shape: JsonObject | undefined, signal: AbortSignal): Promise<Result> {
  const bytes = new TextEncoder().encode(JSON.stringify({ query: action.query, variables: args }));
  const request: Request = { method: "POST", path: action.path, query: [], headers: [], cookies: [], body: { content_type: "application/json", bytes } };
  return exchange(server, action, request, "application/json", shape, signal);
}

async function exchange(
  server: Server,
  action: { readonly base: number; readonly security: readonly (readonly string[])[] },
  request: Request,
  accept: string,
  shape: JsonObject | undefined,
  outer: AbortSignal,
): Promise<Result> {
  const base = baseOf(server.bases[action.base]);
  const limit = AbortSignal.timeout(timeout());
  const signal = AbortSignal.any([outer, limit]);
  try {
    const own = await credentials(server.auth, action.security, signal);
    const url = new URL(base);
    url.pathname = base.pathname.replace(/\/+$/, "") + request.path;
    const search = [base.search.slice(1), ...request.query, ...own.query].filter((pair) => pair !== "");
    const address = `${url.origin}${url.pathname}${search.length > 0 ? `?${search.join("&")}` : ""}`;
    const headers = new Headers({ Accept: accept, "User-Agent": `${server.name}/${server.version}` });
    for (const [name, value] of [...request.headers, ...own.headers]) headers.set(name, value);
    const cookies = [...request.cookies, ...own.cookies];
    if (cookies.length > 0) headers.set("Cookie", cookies.join("; "));
    if (request.body !== undefined) headers.set("Content-Type", request.body.content_type);
    const response = await patiently(address, request, headers, signal);
    if (response.status === 401) forgetTokens();
    return await told(response, own, shape);
  } catch (error) {
    if (error instanceof ToolError) throw error;
    if (limit.aborted) throw new ToolError(`${base.host} did not answer within ${timeout() / 1000} s (MCP_TIMEOUT_SECONDS).`);
    if (outer.aborted) throw new ToolError("The call was cancelled.");
    throw new ToolError(`${base.host} could not be reached: ${reason(error)}.`);
  }
}

function reason(error: unknown): string {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = (cause as { readonly code?: unknown }).code;
  return typeof code === "string" ? code : cause instanceof Error ? cause.message : "unknown";
}

async function patiently(address: string, request: Request, headers: Headers, signal: AbortSignal): Promise<Response> {
  for (let attempt = 1; ; attempt += 1) {
    const response = await follow(address, request, headers, signal);
    if (attempt === ATTEMPTS || !RETRIED.has(response.status) || !REPEATABLE.has(request.method)) return response;
    const wait = waitOf(response, attempt);
    if (wait > LONGEST_WAIT) return response;
    await response.body?.cancel();
    await new Promise<void>((resolve, reject) => {
      const timer = setTimeout(resolve, wait);
      signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason as Error)), { once: true });
    });
  }
}

function waitOf(response: Response, attempt: number): number {
  const after = response.headers.get("retry-after");
  if (after === null) return 250 * 2 ** (attempt - 1);
  const seconds = Number(after);
  const wait = Number.isFinite(seconds) ? seconds * 1000 : Date.parse(after) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : 250;
}

/** Redirects are followed on the same origin only: credentials and arguments are for this API. */
async function follow(address: string, request: Request, headers: Headers, signal: AbortSignal): Promise<Response> {
  let [at, method, body] = [address, request.method, request.body?.bytes];
  for (let hop = 0; ; hop += 1) {
    const sent = body as Uint8Array<ArrayBuffer> | undefined;
    const response = await fetch(at, { method, headers, redirect: "manual", signal, ...(sent === undefined ? {} : { body: sent }) });
    const location = response.headers.get("location");
    if (![301, 302, 303, 307, 308].includes(response.status) || location === null) return response;
    await response.body?.cancel();
    const next = new URL(location, at);
    if (next.origin !== new URL(at).origin) {
      throw new ToolError(`The API sends this request on to ${next.origin}, which it was not meant for. If that is the API's address now, configure it.`);
    }
    if (hop === MOST_REDIRECTS) throw new ToolError("The API sends this request in circles.");
    if (response.status === 303 || (response.status < 303 && method === "POST")) {
      [method, body] = ["GET", undefined];
      headers.delete("Content-Type");
    }
    at = next.href;
  }
}

async function told(response: Response, own: Credentials, shape: JsonObject | undefined): Promise<Result> {
  const type = (response.headers.get("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  const { bytes, isWhole } = await read(response);
  if (!response.ok) return failed(complaint(response, type, bytes, own));
  const next = nextOf(response);
  if (bytes.length === 0) return success(`Done (${response.status}).`, {}, shape);
  if (!isText(type, bytes)) return success(`${bytes.length}${isWhole ? "" : "+"} bytes of ${type === "" ? "binary data" : type}.`, {}, shape);
  const text = hidden(new TextDecoder().decode(bytes), own.secrets);
  const value = isJson(type) || type === "" ? parsed(text) : undefined;
  const errors = isObject(value) && Array.isArray(value["errors"]) && !("data" in value && value["data"] !== null) ? value["errors"] : undefined;
  if (errors !== undefined && errors.length > 0) return failed(shortened(JSON.stringify(errors)).text);
  const short = shortened(value === undefined ? text : JSON.stringify(value));
  const note = isWhole && !short.isCut ? "" : "\n[truncated; ask for less, by a limit, an offset or a filter]";
  const more = next === undefined ? "" : `\n[there is more: ${hidden(next, own.secrets)}]`;
  return success(short.text + note + more, short.isCut || !isWhole ? { truncated: true } : value, shape);
}

/** Structured content is sent where the tool says of which kind it is, or where it is an object by itself. */
function success(text: string, value: Json | undefined, shape: JsonObject | undefined): Result {
  const content = [{ type: "text", text }];
  if (isObject(value) && (shape !== undefined || Object.keys(value).length > 0)) return { content, structuredContent: value };
  return shape === undefined ? { content } : { content, structuredContent: value === undefined ? { text } : { result: value } };
}

function isJson(type: string): boolean {
  return type === "application/json" || type.endsWith("+json");
}

function isText(type: string, bytes: Uint8Array): boolean {
  if (isJson(type) || type.startsWith("text/") || /\b(xml|javascript|yaml|x-www-form-urlencoded|ndjson|graphql)\b/.test(type)) return true;
  return type === "" && !bytes.subarray(0, 1024).includes(0);
}

function parsed(text: string): Json | undefined {
  try {
    return JSON.parse(text) as Json;
  } catch {
    return undefined;
  }
}

function shortened(text: string): { readonly text: string; readonly isCut: boolean } {
  if (text.length <= MOST_TEXT) return { text, isCut: false };
  // A pair of surrogates is not parted.
  const end = /[\ud800-\udbff]/.test(text.charAt(MOST_TEXT - 1)) ? MOST_TEXT - 1 : MOST_TEXT;
  return { text: text.slice(0, end), isCut: true };
}

async function read(response: Response): Promise<{ readonly bytes: Uint8Array; readonly isWhole: boolean }> {
  const chunks: Uint8Array[] = [];
  let length = 0;
  const reader = response.body?.getReader();
  while (reader !== undefined) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    length += value.length;
    if (length > MOST_BYTES) {
      await reader.cancel();
      break;
    }
  }
  const bytes = new Uint8Array(length);
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return { bytes, isWhole: length <= MOST_BYTES };
}

function complaint(response: Response, type: string, bytes: Uint8Array, own: Credentials): string {
  const said = isText(type, bytes) && type !== "text/html" ? new TextDecoder().decode(bytes.subarray(0, 4096)).trim() : "";
  const hint = hintOf(response, own.from);
  return [`The API answered ${response.status}${response.statusText === "" ? "" : ` ${response.statusText}`}.`, hidden(said, own.secrets), hint].filter((part) => part !== "").join("\n");
}

/** Some APIs repeat the key that they refuse. */
function hidden(text: string, secrets: Credentials["secrets"]): string {
  let shown = text;
  for (const [secret, label] of secrets) {
    if (secret.length <= 3) continue;
    for (const form of [secret, encodeURIComponent(secret), encoded(secret)]) shown = shown.replaceAll(form, label);
  }
  return shown;
}

function hintOf(response: Response, from: readonly string[]): string {
  const names = from.join(" and ");
  switch (response.status) {
    case 400:
    case 422:
      return "Change the arguments as it says, and call again.";
    case 401:
      return names === "" ? "It asks for credentials, which its document does not say." : `It does not accept ${names}: have it checked.`;
    case 403:
      return names === "" ? "It does not allow this." : `${names} may not do this.`;
    case 404:
      return "There is no such thing: check the identifiers in the arguments.";
    case 429: {
      const after = response.headers.get("retry-after");
      return after === null ? "It is asked too often: wait before calling again." : `It is asked too often: call again after ${after} (Retry-After).`;
    }
    default:
      return response.status >= 500 ? "That is the API's own trouble: calling again later may help." : "";
  }
}

/** The next page by a `Link` header (RFC 8288): its query, since the rest is known. */
function nextOf(response: Response): string | undefined {
  const link = response.headers.get("link");
  const found = link === null ? null : /<([^>]*)>[^,]*;\s*rel="?next"?/.exec(link);
  const target = found?.[1];
  if (target === undefined || !URL.canParse(target, response.url)) return undefined;
  return `the next page has ${new URL(target, response.url).search.slice(1)}`;
}
