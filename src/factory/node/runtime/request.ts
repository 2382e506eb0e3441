// Writes arguments into an HTTP request, as OpenAPI's styles say (3.1, "Style Values" and RFC 6570).

import { isObject, ToolError, type Body, type HttpAction, type Json, type JsonObject, type Param, type Part } from "./types.js";

export interface Request {
  readonly method: string;
  /** Below the base: begins with `/`, and has no query. */
  readonly path: string;
  /** `name=value` pairs that are encoded already. */
  readonly query: readonly string[];
  readonly headers: readonly (readonly [string, string])[];
  readonly cookies: readonly string[];
  readonly body?: { readonly content_type: string; readonly bytes: Uint8Array };
}

/** Everything but RFC 3986's unreserved characters. */
export function encoded(text: string): string {
  return encodeURIComponent(text).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}

/** The same, but reserved characters stay, except those that would end the value. */
function encodedReserved(text: string): string {
  return text.replace(/[^A-Za-z0-9\-._~:/?@!$'()*,;]/gu, (char) => encoded(char));
}

export function textOf(value: Json): string {
  return typeof value === "string" ? value : JSON.stringify(value);
}

/** An array or an object that holds nothing but plain values has its members; what is deeper is written as JSON. */
function members(value: JsonObject): readonly (readonly [string, string])[] {
  return Object.entries(value).map(([key, member]) => [key, textOf(member)] as const);
}

export function build(action: HttpAction, args: JsonObject): Request {
  let path = action.path;
  const query: string[] = [];
  const headers: (readonly [string, string])[] = [];
  const cookies: string[] = [];
  for (const param of action.params) {
    const given = param.arg === undefined ? undefined : args[param.arg];
    const value = param.value ?? (given === undefined ? param.default : given);
    if (value === undefined) {
      if (param.in === "path") throw new ToolError(`${param.arg ?? param.name} is needed: it stands in the path`);
      continue;
    }
    if (param.in === "path") path = path.replaceAll(`{${param.name}}`, () => inPath(param, value));
    else if (param.in === "query") query.push(...inQuery(param, value));
    else if (param.in === "header") headers.push([param.name, inHeader(param, value)]);
    else cookies.push(...inCookie(param, value));
  }
  const body = action.body === undefined ? undefined : bodyOf(action.body, args);
  return { method: action.method, path, query, headers, cookies, ...(body === undefined ? {} : { body }) };
}

function inPath(param: Param, value: Json): string {
  // A question mark would end the path.
  const encode: Encode = param.reserved === true ? (text) => encodedReserved(text).replaceAll("?", "%3F") : encoded;
  const written = param.content === undefined ? styled(param, value, encode) : encode(JSON.stringify(value));
  // What is nothing, or only dots, would name another resource.
  const bare = written.replaceAll("%2E", ".").replaceAll("%2e", ".");
  if (bare === "" || bare === "." || bare === "..") throw new ToolError(`${param.arg ?? param.name} must not be empty, "." or ".."`);
  if (param.reserved === true && bare.split("/").some((part) => part === "." || part === "..")) {
    throw new ToolError(`${param.arg ?? param.name} must not have "." or ".." between slashes`);
  }
  return written;
}

type Encode = (text: string) => string;

/** Styles of paths (and `simple` of headers). */
function styled(param: Param, value: Json, encode: Encode): string {
  const name = encoded(param.name);
  const prefix = param.style === "label" ? "." : param.style === "matrix" ? ";" : "";
  if (Array.isArray(value)) {
    const items = value.map((item) => encode(textOf(item)));
    if (param.style === "matrix") {
      return param.explode ? items.map((item) => `;${name}=${item}`).join("") : `;${name}=${items.join(",")}`;
    }
    return prefix + items.join(param.style === "label" && param.explode ? "." : ",");
  }
  if (isObject(value)) {
    const pairs = members(value).map(([key, member]) => [encode(key), encode(member)] as const);
    const flat = pairs.flat().join(",");
    if (param.style === "matrix") return param.explode ? pairs.map(([key, member]) => `;${key}=${member}`).join("") : `;${name}=${flat}`;
    if (!param.explode) return prefix + flat;
    return prefix + pairs.map(([key, member]) => `${key}=${member}`).join(param.style === "label" ? "." : ",");
  }
  const text = encode(textOf(value));
  return param.style === "matrix" ? (text === "" ? `;${name}` : `;${name}=${text}`) : prefix + text;
}

const DELIMITERS: { readonly [style: string]: string } = { spaceDelimited: "%20", pipeDelimited: "%7C", tabDelimited: "%09" };

function inQuery(param: Pick<Param, "name" | "style" | "explode" | "reserved" | "content">, value: Json): string[] {
  const encode = param.reserved === true ? encodedReserved : encoded;
  const name = encoded(param.name);
  if (param.content !== undefined) {
    return [`${name}=${encode(param.content.includes("json") ? JSON.stringify(value) : textOf(value))}`];
  }
  if (param.style === "deepObject" && (isObject(value) || Array.isArray(value))) return deep(name, value, encode);
  if (Array.isArray(value)) {
    const items = value.map((item) => encode(textOf(item)));
    if (param.explode) return items.map((item) => `${name}=${item}`);
    return [`${name}=${items.join(DELIMITERS[param.style] ?? ",")}`];
  }
  if (isObject(value)) {
    const pairs = members(value).map(([key, member]) => [encode(key), encode(member)] as const);
    if (param.explode) return pairs.map(([key, member]) => `${key}=${member}`);
    return [`${name}=${pairs.flat().join(DELIMITERS[param.style] ?? ",")}`];
  }
  return [`${name}=${encode(textOf(value))}`];
}

/** `color[R]=100`; deeper members get further brackets, and arrays repeat. */
function deep(name: string, value: Json, encode: Encode): string[] {
  if (Array.isArray(value)) return value.flatMap((item) => deep(name, item, encode));
  if (isObject(value)) return Object.entries(value).flatMap(([key, member]) => deep(`${name}%5B${encode(key)}%5D`, member, encode));
  return [`${name}=${encode(textOf(value))}`];
}

function inHeader(param: Param, value: Json): string {
  const text = param.content === undefined ? styled({ ...param, style: "simple" }, value, (part) => part) : JSON.stringify(value);
  if (/[\u0000-\u0008\u000a-\u001f\u007f]|[^\u0000-\u00ff]/.test(text)) {
    throw new ToolError(`${param.arg ?? param.name} cannot stand in a header: it has line breaks or characters beyond Latin-1`);
  }
  return text.trim();
}

function inCookie(param: Param, value: Json): string[] {
  return inQuery({ ...param, style: "form" }, value);
}

function bodyOf(body: Body, args: JsonObject): Request["body"] {
  const value = body.value ?? (body.arg === undefined ? undefined : args[body.arg]);
  if (value === undefined) return undefined;
  const type = body.content_type.split(";")[0]?.trim().toLowerCase() ?? "";
  if (type === "multipart/form-data") return multipart(body, value);
  const bytes = (text: string) => new TextEncoder().encode(text);
  if (type === "application/x-www-form-urlencoded") return { content_type: body.content_type, bytes: bytes(form(body, value)) };
  if (type === "application/json" || type.endsWith("+json")) return { content_type: body.content_type, bytes: bytes(JSON.stringify(value)) };
  if (type.includes("ndjson") || type.includes("jsonl")) {
    const lines = Array.isArray(value) ? value.map((line) => JSON.stringify(line)).join("\n") : textOf(value);
    return { content_type: body.content_type, bytes: bytes(lines) };
  }
  if (type.startsWith("text/") || type.endsWith("/xml") || type.endsWith("+xml")) {
    return { content_type: body.content_type, bytes: bytes(textOf(value)) };
  }
  return { content_type: body.content_type, bytes: decoded(value, body.arg ?? "body") };
}

function form(body: Body, value: Json): string {
  if (!isObject(value)) throw new ToolError(`${body.arg ?? "body"} must be an object: it is sent as a form`);
  const pairs = Object.entries(value).flatMap(([name, member]) => {
    const part: Part = body.parts?.[name] ?? {};
    const nested = isObject(member) || (Array.isArray(member) && member.some((item) => typeof item === "object"));
    const content = part.content_type ?? (nested && part.style === undefined ? "application/json" : undefined);
    const style = { name, style: part.style ?? "form", explode: part.explode ?? true, reserved: part.reserved === true } as const;
    return inQuery(content === undefined || !content.includes("json") ? style : { ...style, content }, member);
  });
  return pairs.map((pair) => pair.replaceAll("%20", "+")).join("&");
}

function decoded(value: Json, name: string): Uint8Array {
  if (typeof value !== "string" || !/^[A-Za-z0-9+/_-]*={0,2}$/.test(value)) throw new ToolError(`${name} must be base64`);
  return Uint8Array.from(atob(value.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
}

function multipart(body: Body, value: Json): Request["body"] {
  if (!isObject(value)) throw new ToolError(`${body.arg ?? "body"} must be an object: each member is a part of the form`);
  const chunks: Uint8Array[] = [];
  const encoder = new TextEncoder();
  const texts: string[] = [];
  const parts = Object.entries(value).flatMap(([name, member]) => {
    const part: Part = body.parts?.[name] ?? {};
    const repeated = Array.isArray(member) && part.content_type === undefined ? member : [member];
    return repeated.map((item) => ({ name, part, item }));
  });
  for (const { name, part, item } of parts) if (part.binary !== true) texts.push(name, textOf(item));
  const boundary = boundaryFor(texts.join("\n"));
  for (const { name, part, item } of parts) {
    const quoted = name.replace(/["\r\n]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);
    const type = part.content_type ?? (part.binary === true ? "application/octet-stream" : isObject(item) ? "application/json" : undefined);
    const file = part.binary === true ? `; filename="${quoted}"` : "";
    const head = `--${boundary}\r\nContent-Disposition: form-data; name="${quoted}"${file}\r\n${type === undefined ? "" : `Content-Type: ${type}\r\n`}\r\n`;
    chunks.push(encoder.encode(head), part.binary === true ? decoded(item, name) : encoder.encode(textOf(item)), encoder.encode("\r\n"));
  }
  chunks.push(encoder.encode(`--${boundary}--\r\n`));
  const bytes = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return { content_type: `multipart/form-data; boundary=${boundary}`, bytes };
}

function boundaryFor(texts: string): string {
  for (let number = 0; ; number += 1) {
    const boundary = `form-${number}-7d81b2a4c6`;
    if (!texts.includes(boundary)) return boundary;
  }
}
