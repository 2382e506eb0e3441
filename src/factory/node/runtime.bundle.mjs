// runtime.ts
import * as readline from "node:readline";

// runtime/types.ts
var ToolError = class extends Error {
};
function failed(text2) {
  return { content: [{ type: "text", text: text2 }], isError: true };
}
function isObject(value) {
  return typeof value === "object" && value !== null && !Array.isArray(value);
}

// runtime/builtin/calculator.ts
function told(value) {
  if (!Number.isFinite(value)) throw new ToolError("The result is not a number that can be written.");
  const result = value === 0 ? 0 : Number(value.toPrecision(15));
  return { content: [{ type: "text", text: String(result) }], structuredContent: { result } };
}
function number(args, name) {
  const value = args[name];
  if (typeof value !== "number") throw new ToolError(`${name} must be a number`);
  return value;
}
function divided(a, b) {
  if (b === 0) throw new ToolError("Nothing is divided by zero.");
  return a / b;
}
var two = (does) => (args) => told(does(number(args, "a"), number(args, "b")));
var calculator = {
  "calculator.add": two((a, b) => a + b),
  "calculator.subtract": two((a, b) => a - b),
  "calculator.multiply": two((a, b) => a * b),
  "calculator.divide": two(divided),
  "calculator.modulo": two((a, b) => b === 0 ? divided(a, b) : a % b),
  "calculator.power": two((a, b) => a ** b),
  "calculator.root": (args) => {
    const value = number(args, "value");
    if (value < 0) throw new ToolError("A negative number has no real square root.");
    return told(Math.sqrt(value));
  },
  "calculator.evaluate": (args) => told(evaluate(String(args["expression"])))
};
var MOST_DEEP = 200;
function evaluate(expression) {
  const tokens2 = expression.match(/\d+(?:\.\d+)?(?:[eE][+-]?\d+)?|\.\d+|[-+*/%^()]|\S/g) ?? [];
  let at = 0;
  let depth = 0;
  const deeper = (does) => {
    depth += 1;
    if (depth > MOST_DEEP) throw new ToolError("The expression is nested too deeply.");
    const value2 = does();
    depth -= 1;
    return value2;
  };
  const next = () => tokens2[at];
  const sum = () => {
    let value2 = product();
    for (let sign = next(); sign === "+" || sign === "-"; sign = next()) {
      at += 1;
      const other = product();
      value2 = sign === "+" ? value2 + other : value2 - other;
    }
    return value2;
  };
  const product = () => {
    let value2 = unary();
    for (let sign = next(); sign === "*" || sign === "/" || sign === "%"; sign = next()) {
      at += 1;
      const other = unary();
      value2 = sign === "*" ? value2 * other : sign === "/" ? divided(value2, other) : (divided(value2, other), value2 % other);
    }
    return value2;
  };
  const unary = () => deeper(() => {
    if (next() === "-") return at += 1, -unary();
    if (next() === "+") return at += 1, unary();
    return power();
  });
  const power = () => {
    const base = atom();
    if (next() !== "^") return base;
    at += 1;
    return base ** unary();
  };
  const atom = () => {
    const token2 = tokens2[at];
    at += 1;
    if (token2 === "(") {
      const value2 = deeper(sum);
      if (tokens2[at] !== ")") throw new ToolError("A parenthesis is not closed.");
      at += 1;
      return value2;
    }
    if (token2 === void 0) throw new ToolError("The expression ends too early.");
    if (!/^[\d.]/.test(token2) || Number.isNaN(Number(token2))) throw new ToolError(`${JSON.stringify(token2)} is not part of a calculation.`);
    return Number(token2);
  };
  const value = sum();
  if (at < tokens2.length) throw new ToolError(`${JSON.stringify(tokens2[at])} does not belong there.`);
  return value;
}

// runtime/builtin/fetching.ts
import * as dns from "node:dns";
import * as http from "node:http";
import * as https from "node:https";
import * as net from "node:net";

// runtime/request.ts
function encoded(text2) {
  return encodeURIComponent(text2).replace(/[!'()*]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase()}`);
}
function encodedReserved(text2) {
  return text2.replace(/[^A-Za-z0-9\-._~:/?@!$'()*,;]/gu, (char) => encoded(char));
}
function textOf(value) {
  return typeof value === "string" ? value : JSON.stringify(value);
}
function members(value) {
  return Object.entries(value).map(([key, member]) => [key, textOf(member)]);
}
function build(action, args) {
  let path4 = action.path;
  const query = [];
  const headers = [];
  const cookies = [];
  for (const param of action.params) {
    const given = param.arg === void 0 ? void 0 : args[param.arg];
    const value = param.value ?? (given === void 0 ? param.default : given);
    if (value === void 0) {
      if (param.in === "path") throw new ToolError(`${param.arg ?? param.name} is needed: it stands in the path`);
      continue;
    }
    if (param.in === "path") path4 = path4.replaceAll(`{${param.name}}`, () => inPath(param, value));
    else if (param.in === "query") query.push(...inQuery(param, value));
    else if (param.in === "header") headers.push([param.name, inHeader(param, value)]);
    else cookies.push(...inCookie(param, value));
  }
  const body = action.body === void 0 ? void 0 : bodyOf(action.body, args);
  return { method: action.method, path: path4, query, headers, cookies, ...body === void 0 ? {} : { body } };
}
function inPath(param, value) {
  const encode = param.reserved === true ? (text2) => encodedReserved(text2).replaceAll("?", "%3F") : encoded;
  const written = param.content === void 0 ? styled(param, value, encode) : encode(JSON.stringify(value));
  const bare = written.replaceAll("%2E", ".").replaceAll("%2e", ".");
  if (bare === "" || bare === "." || bare === "..") throw new ToolError(`${param.arg ?? param.name} must not be empty, "." or ".."`);
  if (param.reserved === true && bare.split("/").some((part) => part === "." || part === "..")) {
    throw new ToolError(`${param.arg ?? param.name} must not have "." or ".." between slashes`);
  }
  return written;
}
function styled(param, value, encode) {
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
    const pairs = members(value).map(([key, member]) => [encode(key), encode(member)]);
    const flat = pairs.flat().join(",");
    if (param.style === "matrix") return param.explode ? pairs.map(([key, member]) => `;${key}=${member}`).join("") : `;${name}=${flat}`;
    if (!param.explode) return prefix + flat;
    return prefix + pairs.map(([key, member]) => `${key}=${member}`).join(param.style === "label" ? "." : ",");
  }
  const text2 = encode(textOf(value));
  return param.style === "matrix" ? text2 === "" ? `;${name}` : `;${name}=${text2}` : prefix + text2;
}
var DELIMITERS = { spaceDelimited: "%20", pipeDelimited: "%7C", tabDelimited: "%09" };
function inQuery(param, value) {
  const encode = param.reserved === true ? encodedReserved : encoded;
  const name = encoded(param.name);
  if (param.content !== void 0) {
    return [`${name}=${encode(param.content.includes("json") ? JSON.stringify(value) : textOf(value))}`];
  }
  if (param.style === "deepObject" && (isObject(value) || Array.isArray(value))) return deep(name, value, encode);
  if (Array.isArray(value)) {
    const items = value.map((item) => encode(textOf(item)));
    if (param.explode) return items.map((item) => `${name}=${item}`);
    return [`${name}=${items.join(DELIMITERS[param.style] ?? ",")}`];
  }
  if (isObject(value)) {
    const pairs = members(value).map(([key, member]) => [encode(key), encode(member)]);
    if (param.explode) return pairs.map(([key, member]) => `${key}=${member}`);
    return [`${name}=${pairs.flat().join(DELIMITERS[param.style] ?? ",")}`];
  }
  return [`${name}=${encode(textOf(value))}`];
}
function deep(name, value, encode) {
  if (Array.isArray(value)) return value.flatMap((item) => deep(name, item, encode));
  if (isObject(value)) return Object.entries(value).flatMap(([key, member]) => deep(`${name}%5B${encode(key)}%5D`, member, encode));
  return [`${name}=${encode(textOf(value))}`];
}
function inHeader(param, value) {
  const text2 = param.content === void 0 ? styled({ ...param, style: "simple" }, value, (part) => part) : JSON.stringify(value);
  if (/[\u0000-\u0008\u000a-\u001f\u007f]|[^\u0000-\u00ff]/.test(text2)) {
    throw new ToolError(`${param.arg ?? param.name} cannot stand in a header: it has line breaks or characters beyond Latin-1`);
  }
  return text2.trim();
}
function inCookie(param, value) {
  return inQuery({ ...param, style: "form" }, value);
}
function bodyOf(body, args) {
  const value = body.value ?? (body.arg === void 0 ? void 0 : args[body.arg]);
  if (value === void 0) return void 0;
  const type = body.content_type.split(";")[0]?.trim().toLowerCase() ?? "";
  if (type === "multipart/form-data") return multipart(body, value);
  const bytes = (text2) => new TextEncoder().encode(text2);
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
function form(body, value) {
  if (!isObject(value)) throw new ToolError(`${body.arg ?? "body"} must be an object: it is sent as a form`);
  const pairs = Object.entries(value).flatMap(([name, member]) => {
    const part = body.parts?.[name] ?? {};
    const nested = isObject(member) || Array.isArray(member) && member.some((item) => typeof item === "object");
    const content = part.content_type ?? (nested && part.style === void 0 ? "application/json" : void 0);
    const style = { name, style: part.style ?? "form", explode: part.explode ?? true, reserved: part.reserved === true };
    return inQuery(content === void 0 || !content.includes("json") ? style : { ...style, content }, member);
  });
  return pairs.map((pair) => pair.replaceAll("%20", "+")).join("&");
}
function decoded(value, name) {
  if (typeof value !== "string" || !/^[A-Za-z0-9+/_-]*={0,2}$/.test(value)) throw new ToolError(`${name} must be base64`);
  return Uint8Array.from(atob(value.replaceAll("-", "+").replaceAll("_", "/")), (char) => char.charCodeAt(0));
}
function multipart(body, value) {
  if (!isObject(value)) throw new ToolError(`${body.arg ?? "body"} must be an object: each member is a part of the form`);
  const chunks = [];
  const encoder = new TextEncoder();
  const texts = [];
  const parts = Object.entries(value).flatMap(([name, member]) => {
    const part = body.parts?.[name] ?? {};
    const repeated = Array.isArray(member) && part.content_type === void 0 ? member : [member];
    return repeated.map((item) => ({ name, part, item }));
  });
  for (const { name, part, item } of parts) if (part.binary !== true) texts.push(name, textOf(item));
  const boundary = boundaryFor(texts.join("\n"));
  for (const { name, part, item } of parts) {
    const quoted = name.replace(/["\r\n]/g, (char) => `%${char.charCodeAt(0).toString(16).toUpperCase().padStart(2, "0")}`);
    const type = part.content_type ?? (part.binary === true ? "application/octet-stream" : isObject(item) ? "application/json" : void 0);
    const file = part.binary === true ? `; filename="${quoted}"` : "";
    const head = `--${boundary}\r
Content-Disposition: form-data; name="${quoted}"${file}\r
${type === void 0 ? "" : `Content-Type: ${type}\r
`}\r
`;
    chunks.push(encoder.encode(head), part.binary === true ? decoded(item, name) : encoder.encode(textOf(item)), encoder.encode("\r\n"));
  }
  chunks.push(encoder.encode(`--${boundary}--\r
`));
  const bytes = new Uint8Array(chunks.reduce((length, chunk) => length + chunk.length, 0));
  let at = 0;
  for (const chunk of chunks) {
    bytes.set(chunk, at);
    at += chunk.length;
  }
  return { content_type: `multipart/form-data; boundary=${boundary}`, bytes };
}
function boundaryFor(texts) {
  for (let number2 = 0; ; number2 += 1) {
    const boundary = `form-${number2}-7d81b2a4c6`;
    if (!texts.includes(boundary)) return boundary;
  }
}

// runtime/auth.ts
var NONE = { headers: [], query: [], cookies: [], from: [], secrets: [] };
function variable(name) {
  const value = process.env[name]?.trim();
  return value === "" || value?.startsWith("${") === true ? void 0 : value;
}
function variablesOf(scheme) {
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
function isSet(scheme) {
  return variablesOf(scheme).every((name) => variable(name) !== void 0) || scheme.kind === "client_credentials" && variable(scheme.env) !== void 0;
}
async function credentials(schemes, security, signal) {
  const sets = security.map((names) => names.map((name) => schemes[name]).filter((scheme) => scheme !== void 0));
  const satisfied = sets.find((set) => set.length > 0 && set.every(isSet)) ?? sets.find((set) => set.length === 0);
  if (satisfied === void 0) {
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
    secrets: found.flatMap((one) => one.secrets)
  };
}
async function presented(scheme, signal) {
  const of = (name) => {
    const value = variable(name) ?? "";
    if (/[^\t -~\u0080-\u00ff]/.test(value)) throw new ToolError(`${name} has characters in it that no request can have: set it anew.`);
    return [value, `[${name}]`];
  };
  const bearer = (token2, label) => ({ ...NONE, headers: [["Authorization", `Bearer ${token2}`]], secrets: [[token2, label]] });
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
      const given = variable(scheme.env) === void 0 ? await token(scheme, signal) : of(scheme.env)[0];
      return { ...bearer(given, "[token]"), secrets: [[given, "[token]"], of(scheme.client_secret_env)] };
    }
  }
}
function basic(username, password) {
  const bytes = new TextEncoder().encode(`${username ?? ""}:${password ?? ""}`);
  return `Basic ${btoa(Array.from(bytes, (byte) => String.fromCharCode(byte)).join(""))}`;
}
var tokens = /* @__PURE__ */ new Map();
async function token(scheme, signal) {
  const key = JSON.stringify([scheme.token_url, scheme.client_id_env, scheme.scopes]);
  const kept = tokens.get(key);
  if (kept !== void 0 && kept.until > Date.now()) return kept.token;
  const form2 = new URLSearchParams({ grant_type: "client_credentials" });
  if (scheme.scopes.length > 0) form2.set("scope", scheme.scopes.join(" "));
  const headers = {
    Accept: "application/json",
    Authorization: basic(encodeURIComponent(variable(scheme.client_id_env) ?? ""), encodeURIComponent(variable(scheme.client_secret_env) ?? "")),
    "Content-Type": "application/x-www-form-urlencoded"
  };
  const response = await fetch(scheme.token_url, { method: "POST", headers, body: form2.toString(), redirect: "error", signal });
  if (!response.ok) {
    await response.body?.cancel();
    throw new ToolError(
      `No token: ${new URL(scheme.token_url).host} answered ${response.status}. Check ${scheme.client_id_env} and ${scheme.client_secret_env}.`
    );
  }
  const answer = await response.json();
  const given = isObject(answer) ? answer["access_token"] : void 0;
  if (!isObject(answer) || typeof given !== "string") throw new ToolError(`No token: ${textOf(new URL(scheme.token_url).host)} gave none.`);
  const seconds = typeof answer["expires_in"] === "number" ? answer["expires_in"] : 300;
  tokens.set(key, { token: given, until: Date.now() + Math.max(0, seconds - 30) * 1e3 });
  return given;
}
function forgetTokens() {
  tokens.clear();
}

// runtime/builtin/fetching.ts
var MOST_BYTES = 2 << 20;
var MOST_TEXT = 25e3;
var MOST_REDIRECTS = 5;
var LIMIT = 3e4;
var PRIVATE = new net.BlockList();
var RANGES = [
  ["0.0.0.0", 8, "ipv4"],
  ["10.0.0.0", 8, "ipv4"],
  ["100.64.0.0", 10, "ipv4"],
  ["127.0.0.0", 8, "ipv4"],
  ["169.254.0.0", 16, "ipv4"],
  ["172.16.0.0", 12, "ipv4"],
  ["192.0.0.0", 24, "ipv4"],
  ["192.168.0.0", 16, "ipv4"],
  ["198.18.0.0", 15, "ipv4"],
  ["224.0.0.0", 3, "ipv4"],
  ["::", 96, "ipv6"],
  ["::ffff:0:0", 96, "ipv6"],
  ["64:ff9b::", 96, "ipv6"],
  ["2002::", 16, "ipv6"],
  ["fc00::", 7, "ipv6"],
  ["fe80::", 10, "ipv6"],
  ["ff00::", 8, "ipv6"]
];
for (const [prefix, length, family] of RANGES) PRIVATE.addSubnet(prefix, length, family);
function isPrivate(address) {
  return variable("MCP_ALLOW_PRIVATE") !== "1" && PRIVATE.check(address, net.isIP(address) === 6 ? "ipv6" : "ipv4");
}
function refused(host) {
  return new ToolError(`${host} is an address of a private network, which is not asked (MCP_ALLOW_PRIVATE=1 allows it).`);
}
function get(url, agent, signal) {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (net.isIP(host) !== 0 && isPrivate(host)) throw refused(host);
  const lookup2 = (name, options, done) => {
    dns.lookup(name, { ...options, all: true }, (error, found) => {
      if (error !== null) return done(error, []);
      if (found.some(({ address }) => isPrivate(address))) return done(refused(name), []);
      if (options.all === true) return done(null, found);
      return done(null, found[0]?.address ?? "", found[0]?.family);
    });
  };
  const headers = { "User-Agent": agent, Accept: "text/*, application/json;q=0.9, */*;q=0.1", "Accept-Encoding": "identity" };
  return new Promise((resolve3, reject) => {
    const request = (url.protocol === "https:" ? https : http).get(url, { lookup: lookup2, headers, signal }, (response) => {
      const bytes = [];
      let length = 0;
      const done = () => resolve3({ status: response.statusCode ?? 0, type: response.headers["content-type"] ?? "", location: response.headers["location"], bytes });
      response.on("data", (chunk) => {
        bytes.push(chunk);
        length += chunk.length;
        if (length > MOST_BYTES) {
          done();
          response.destroy();
        }
      });
      response.on("end", done);
      response.on("error", reject);
    });
    request.on("error", reject);
  });
}
var HIDING = ["script", "style", "noscript", "template"];
var BREAKING = /* @__PURE__ */ new Set(["br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6"]);
var NAMED = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: " " };
function plain(html) {
  const lower = html.toLowerCase();
  const parts = [];
  let at = 0;
  for (let open = html.indexOf("<", at); open >= 0; open = html.indexOf("<", at)) {
    parts.push(html.slice(at, open));
    const name = /^<\/?([a-z0-9]+)/.exec(lower.slice(open, open + 16))?.[1] ?? "";
    const end = html.indexOf(">", open);
    if (end < 0) {
      at = html.length;
      break;
    }
    at = end + 1;
    parts.push(BREAKING.has(name) ? "\n" : " ");
    if (HIDING.includes(name) && html[open + 1] !== "/") {
      const close = lower.indexOf(`</${name}`, at);
      at = close < 0 ? html.length : close;
    }
  }
  parts.push(html.slice(at));
  const text2 = parts.join("").replace(/&(#x?[0-9a-f]{1,8}|[a-z]{1,8});/gi, (whole, name) => {
    if (!name.startsWith("#")) return NAMED[name.toLowerCase()] ?? whole;
    const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return code > 0 && code <= 1114111 ? String.fromCodePoint(code) : whole;
  });
  const lines = text2.split("\n").map((line) => line.replace(/[ \t\r\u00a0]+/g, " ").trim());
  return lines.filter((line) => line !== "").join("\n");
}
function told2(url, page2, raw, start) {
  const type = page2.type.split(";")[0]?.trim() ?? "";
  if (page2.status < 200 || page2.status > 299) throw new ToolError(`${url.host} answered ${page2.status}.`);
  const length = page2.bytes.reduce((sum, chunk) => sum + chunk.length, 0);
  if (!/^text\/|json|xml|javascript|^$/.test(type)) return { content: [{ type: "text", text: `${length} bytes of ${type}.` }] };
  const decoder = new TextDecoder();
  const whole = page2.bytes.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
  const text2 = type === "text/html" && !raw ? plain(whole) : whole;
  const more = start + MOST_TEXT < text2.length ? `
[there is more: call again with start=${start + MOST_TEXT}]` : "";
  return { content: [{ type: "text", text: text2.slice(start, start + MOST_TEXT) + more }] };
}
var fetching = {
  "fetch.get": async (args, around) => {
    const given = String(args["url"]);
    if (!URL.canParse(given)) throw new ToolError("url must be an absolute address, such as https://example.org/.");
    let url = new URL(given);
    const signal = AbortSignal.any([around.signal, AbortSignal.timeout(LIMIT)]);
    for (let hop = 0; ; hop += 1) {
      if (url.protocol !== "https:" && url.protocol !== "http:") throw new ToolError("Only http and https addresses are fetched.");
      if (url.username !== "" || url.password !== "") throw new ToolError("The address must not have a user or a password in it.");
      const page2 = await get(url, around.name, signal).catch((error) => {
        if (error instanceof ToolError) throw error;
        throw new ToolError(`${url.host} could not be reached: ${error instanceof Error ? error.message : "unknown"}.`);
      });
      if (page2.location === void 0 || page2.status < 300 || page2.status > 399) {
        return told2(url, page2, args["raw"] === true, typeof args["start"] === "number" ? args["start"] : 0);
      }
      if (hop === MOST_REDIRECTS) throw new ToolError("The page sends on in circles.");
      if (!URL.canParse(page2.location, url)) throw new ToolError("The page sends on to something that is no address.");
      url = new URL(page2.location, url);
    }
  }
};

// runtime/builtin/files.ts
import * as fs2 from "node:fs/promises";
import * as path2 from "node:path";

// runtime/builtin/place.ts
import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as path from "node:path";
async function folder(name) {
  const place = variable("MCP_DATA_DIR") ?? path.join(os.homedir(), ".local", "share", name);
  await fs.mkdir(place, { recursive: true });
  return place;
}
var last = Promise.resolve();
function inTurn(does) {
  const turn = last.then(does, does);
  last = turn.catch(() => void 0);
  return turn;
}
async function write(file, bytes) {
  const draft = `${file}.${process.pid}.${Date.now()}.draft`;
  try {
    await fs.writeFile(draft, bytes, { mode: 384 });
    await fs.rename(draft, file);
  } catch (error) {
    await fs.rm(draft, { force: true });
    throw error;
  }
}
function isMissing(error) {
  return error.code === "ENOENT";
}

// runtime/builtin/files.ts
var MOST_BYTES2 = 1 << 20;
var MOST_LISTED = 500;
async function placeOf(args, around) {
  const shown = typeof args["path"] === "string" ? args["path"] : ".";
  const root = await fs2.realpath(path2.join(await folder(around.name), "."));
  const place = path2.resolve(root, shown);
  const out = new ToolError(`${JSON.stringify(shown)} is not below the folder of this server.`);
  if (shown.includes("\0") || path2.isAbsolute(shown) || !isBelow(root, place)) throw out;
  for (let above = place; isBelow(root, above) && above !== root; above = path2.dirname(above)) {
    try {
      if (!isBelow(root, await fs2.realpath(above))) throw out;
      break;
    } catch (error) {
      if (!isMissing(error)) throw error;
      if (await fs2.lstat(above).then((found) => found.isSymbolicLink(), () => false)) throw out;
    }
  }
  return { root, place, shown };
}
function isBelow(root, place) {
  return place === root || place.startsWith(root + path2.sep);
}
function told3(value) {
  return { content: [{ type: "text", text: JSON.stringify(value) }], structuredContent: value };
}
async function orMissing(shown, does) {
  try {
    return await does;
  } catch (error) {
    const code = error.code;
    if (code === "ENOENT") throw new ToolError(`There is no ${JSON.stringify(shown)}.`);
    if (code === "EISDIR" || code === "EPERM") throw new ToolError(`${JSON.stringify(shown)} is a folder.`);
    if (code === "ENOTDIR" || code === "EEXIST") throw new ToolError(`Part of ${JSON.stringify(shown)} is a file, not a folder.`);
    throw error;
  }
}
var files = {
  "files.read": async (args, around) => {
    const { place, shown } = await placeOf(args, around);
    const found = await orMissing(shown, fs2.stat(place));
    if (found.size > MOST_BYTES2) throw new ToolError(`${JSON.stringify(shown)} has ${found.size} bytes, more than are read at once (${MOST_BYTES2}).`);
    const bytes = await orMissing(shown, fs2.readFile(place));
    const text2 = new TextDecoder("utf-8", { fatal: false }).decode(bytes);
    return { content: [{ type: "text", text: text2 }], structuredContent: { path: shown, text: text2 } };
  },
  "files.write": async (args, around) => {
    const { place, shown, root } = await placeOf(args, around);
    const text2 = String(args["text"]);
    if (place === root) throw new ToolError("The folder itself cannot be written.");
    if (text2.length > MOST_BYTES2) throw new ToolError(`No more than ${MOST_BYTES2} characters are written at once.`);
    await inTurn(async () => {
      await orMissing(shown, fs2.mkdir(path2.dirname(place), { recursive: true }));
      await orMissing(shown, write(place, text2));
    });
    return told3({ path: shown, bytes: new TextEncoder().encode(text2).length });
  },
  "files.list": async (args, around) => {
    const { place, shown } = await placeOf(args, around);
    const entries = await orMissing(shown, fs2.readdir(place, { withFileTypes: true }));
    const sorted = entries.map((entry) => ({ name: entry.name, kind: entry.isDirectory() ? "folder" : "file" })).sort((a, b) => a.name < b.name ? -1 : 1);
    return told3({ path: shown, entries: sorted.slice(0, MOST_LISTED), total: sorted.length });
  },
  "files.delete": async (args, around) => {
    const { place, shown } = await placeOf(args, around);
    await inTurn(() => orMissing(shown, fs2.unlink(place)));
    return told3({ path: shown, deleted: true });
  }
};

// runtime/builtin/records.ts
import * as fs3 from "node:fs/promises";
import * as path3 from "node:path";
var MOST = 1e4;
var USUALLY_LISTED = 50;
async function read(around, file) {
  const place = path3.join(await folder(around.name), file);
  try {
    const kept = JSON.parse(await fs3.readFile(place, "utf8"));
    if (!isObject(kept)) throw new ToolError(`${place} is not what this server wrote: move it away to begin anew.`);
    return Object.assign(/* @__PURE__ */ Object.create(null), kept);
  } catch (error) {
    if (isMissing(error)) return /* @__PURE__ */ Object.create(null);
    if (error instanceof SyntaxError) throw new ToolError(`${place} is not JSON: move it away to begin anew.`);
    throw error;
  }
}
function change(around, file, does) {
  return inTurn(async () => {
    const records2 = await read(around, file);
    const value = does(records2);
    if (Object.keys(records2).length > MOST) throw new ToolError(`No more than ${MOST} are kept: delete some first.`);
    await write(path3.join(await folder(around.name), file), JSON.stringify(records2));
    return value;
  });
}
function told4(value) {
  return { content: [{ type: "text", text: JSON.stringify(value) }], structuredContent: value };
}
function existing(records2, kind, key) {
  const found = records2[key];
  if (found === void 0) throw new ToolError(`There is no ${kind} ${JSON.stringify(key)}.`);
  return found;
}
function page(all, args, name) {
  const offset = typeof args["offset"] === "number" ? args["offset"] : 0;
  const limit = typeof args["limit"] === "number" ? args["limit"] : USUALLY_LISTED;
  const shown = all.slice(offset, offset + limit);
  return told4({ [name]: shown, total: all.length, ...offset + limit < all.length ? { next_offset: offset + limit } : {} });
}
var VALUES = "values.json";
var NOTES = "notes.json";
var values = {
  "values.set": (args, around) => change(around, VALUES, (records2) => {
    const key = String(args["key"]);
    const existed = key in records2;
    records2[key] = args["value"];
    return told4({ key, replaced: existed });
  }),
  "values.get": async (args, around) => {
    const key = String(args["key"]);
    return told4({ key, value: existing(await read(around, VALUES), "key", key) });
  },
  "values.delete": (args, around) => change(around, VALUES, (records2) => {
    const key = String(args["key"]);
    existing(records2, "key", key);
    delete records2[key];
    return told4({ key, deleted: true });
  }),
  "values.list": async (args, around) => {
    const prefix = typeof args["prefix"] === "string" ? args["prefix"] : "";
    const keys = Object.keys(await read(around, VALUES)).filter((key) => key.startsWith(prefix));
    return page(keys.sort(), args, "keys");
  }
};
function nextId(records2) {
  const ids = Object.keys(records2).map(Number);
  return String(ids.reduce((most, id) => Math.max(most, id), 0) + 1);
}
var notes = {
  "notes.create": (args, around) => change(around, NOTES, (records2) => {
    const id = nextId(records2);
    const now = (/* @__PURE__ */ new Date()).toISOString();
    const note = { id, title: args["title"], text: args["text"] ?? "", tags: args["tags"] ?? [], created_at: now, updated_at: now };
    records2[id] = note;
    return told4(note);
  }),
  "notes.get": async (args, around) => told4(existing(await read(around, NOTES), "note", String(args["id"]))),
  "notes.update": (args, around) => change(around, NOTES, (records2) => {
    const id = String(args["id"]);
    const before = existing(records2, "note", id);
    const given = Object.fromEntries(Object.entries(args).filter(([name]) => ["title", "text", "tags"].includes(name)));
    const note = { ...before, ...given, updated_at: (/* @__PURE__ */ new Date()).toISOString() };
    records2[id] = note;
    return told4(note);
  }),
  "notes.delete": (args, around) => change(around, NOTES, (records2) => {
    const id = String(args["id"]);
    existing(records2, "note", id);
    delete records2[id];
    return told4({ id, deleted: true });
  }),
  "notes.search": async (args, around) => {
    const wanted = typeof args["query"] === "string" ? args["query"].toLowerCase() : "";
    const all = Object.values(await read(around, NOTES));
    const found = all.filter((note) => `${String(note["title"])}
${String(note["text"])}
${JSON.stringify(note["tags"])}`.toLowerCase().includes(wanted));
    return page(found, args, "notes");
  }
};
var records = { ...values, ...notes };

// runtime/builtin.ts
var BUILTINS = { ...calculator, ...records, ...files, ...fetching };

// runtime/call.ts
var MOST_TEXT2 = 25e3;
var MOST_BYTES3 = 8 << 20;
var RETRIED = /* @__PURE__ */ new Set([429, 502, 503, 504]);
var REPEATABLE = /* @__PURE__ */ new Set(["GET", "HEAD", "OPTIONS", "PUT", "DELETE"]);
var ATTEMPTS = 3;
var LONGEST_WAIT = 1e4;
var MOST_REDIRECTS2 = 5;
function timeout() {
  const seconds = Number(variable("MCP_TIMEOUT_SECONDS") ?? "30");
  return (Number.isFinite(seconds) && seconds > 0 ? seconds : 30) * 1e3;
}
function baseOf(base) {
  const given = base === void 0 ? void 0 : variable(base.env) ?? base.url ?? void 0;
  if (given === void 0) throw new ToolError(`The address of the API is not known. Set ${base?.env ?? "it"} in the environment of this server.`);
  if (!URL.canParse(given)) throw new ToolError(`${base?.env ?? "The address"} is not an address: it has to look like https://host/path.`);
  const url = new URL(given);
  const isLoopback = ["localhost", "127.0.0.1", "[::1]"].includes(url.hostname);
  if (url.protocol !== "https:" && !(url.protocol === "http:" && (isLoopback || variable("MCP_ALLOW_HTTP") === "1"))) {
    throw new ToolError(`${url.host} is not asked without encryption. Set ${base?.env ?? "it"} to an https address, or MCP_ALLOW_HTTP=1.`);
  }
  return url;
}
async function callHttp(server, action, args, shape, signal) {
  return exchange(server, action, build(action, args), action.accept, shape, signal);
}
async function callGraphql(server, action, args, shape, signal) {
  const bytes = new TextEncoder().encode(JSON.stringify({ query: action.query, variables: args }));
  const request = { method: "POST", path: action.path, query: [], headers: [], cookies: [], body: { content_type: "application/json", bytes } };
  return exchange(server, action, request, "application/json", shape, signal);
}
async function exchange(server, action, request, accept, shape, outer) {
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
    if (request.body !== void 0) headers.set("Content-Type", request.body.content_type);
    const response = await patiently(address, request, headers, signal);
    if (response.status === 401) forgetTokens();
    return await told5(response, own, shape);
  } catch (error) {
    if (error instanceof ToolError) throw error;
    if (limit.aborted) throw new ToolError(`${base.host} did not answer within ${timeout() / 1e3} s (MCP_TIMEOUT_SECONDS).`);
    if (outer.aborted) throw new ToolError("The call was cancelled.");
    throw new ToolError(`${base.host} could not be reached: ${reason(error)}.`);
  }
}
function reason(error) {
  const cause = error instanceof Error && error.cause instanceof Error ? error.cause : error;
  const code = cause.code;
  return typeof code === "string" ? code : cause instanceof Error ? cause.message : "unknown";
}
async function patiently(address, request, headers, signal) {
  for (let attempt = 1; ; attempt += 1) {
    const response = await follow(address, request, headers, signal);
    if (attempt === ATTEMPTS || !RETRIED.has(response.status) || !REPEATABLE.has(request.method)) return response;
    const wait = waitOf(response, attempt);
    if (wait > LONGEST_WAIT) return response;
    await response.body?.cancel();
    await new Promise((resolve3, reject) => {
      const timer = setTimeout(resolve3, wait);
      signal.addEventListener("abort", () => (clearTimeout(timer), reject(signal.reason)), { once: true });
    });
  }
}
function waitOf(response, attempt) {
  const after = response.headers.get("retry-after");
  if (after === null) return 250 * 2 ** (attempt - 1);
  const seconds = Number(after);
  const wait = Number.isFinite(seconds) ? seconds * 1e3 : Date.parse(after) - Date.now();
  return Number.isFinite(wait) ? Math.max(0, wait) : 250;
}
async function follow(address, request, headers, signal) {
  let [at, method, body] = [address, request.method, request.body?.bytes];
  for (let hop = 0; ; hop += 1) {
    const sent = body;
    const response = await fetch(at, { method, headers, redirect: "manual", signal, ...sent === void 0 ? {} : { body: sent } });
    const location = response.headers.get("location");
    if (![301, 302, 303, 307, 308].includes(response.status) || location === null) return response;
    await response.body?.cancel();
    const next = new URL(location, at);
    if (next.origin !== new URL(at).origin) {
      throw new ToolError(`The API sends this request on to ${next.origin}, which it was not meant for. If that is the API's address now, configure it.`);
    }
    if (hop === MOST_REDIRECTS2) throw new ToolError("The API sends this request in circles.");
    if (response.status === 303 || response.status < 303 && method === "POST") {
      [method, body] = ["GET", void 0];
      headers.delete("Content-Type");
    }
    at = next.href;
  }
}
async function told5(response, own, shape) {
  const type = (response.headers.get("content-type") ?? "").split(";")[0]?.trim().toLowerCase() ?? "";
  const { bytes, isWhole } = await read2(response);
  if (!response.ok) return failed(complaint(response, type, bytes, own));
  const next = nextOf(response);
  if (bytes.length === 0) return success(`Done (${response.status}).`, {}, shape);
  if (!isText(type, bytes)) return success(`${bytes.length}${isWhole ? "" : "+"} bytes of ${type === "" ? "binary data" : type}.`, {}, shape);
  const text2 = hidden(new TextDecoder().decode(bytes), own.secrets);
  const value = isJson(type) || type === "" ? parsed(text2) : void 0;
  const errors = isObject(value) && Array.isArray(value["errors"]) && !("data" in value && value["data"] !== null) ? value["errors"] : void 0;
  if (errors !== void 0 && errors.length > 0) return failed(shortened(JSON.stringify(errors)).text);
  const short = shortened(value === void 0 ? text2 : JSON.stringify(value));
  const note = isWhole && !short.isCut ? "" : "\n[truncated; ask for less, by a limit, an offset or a filter]";
  const more = next === void 0 ? "" : `
[there is more: ${hidden(next, own.secrets)}]`;
  return success(short.text + note + more, short.isCut || !isWhole ? { truncated: true } : value, shape);
}
function success(text2, value, shape) {
  const content = [{ type: "text", text: text2 }];
  if (isObject(value) && (shape !== void 0 || Object.keys(value).length > 0)) return { content, structuredContent: value };
  return shape === void 0 ? { content } : { content, structuredContent: value === void 0 ? { text: text2 } : { result: value } };
}
function isJson(type) {
  return type === "application/json" || type.endsWith("+json");
}
function isText(type, bytes) {
  if (isJson(type) || type.startsWith("text/") || /\b(xml|javascript|yaml|x-www-form-urlencoded|ndjson|graphql)\b/.test(type)) return true;
  return type === "" && !bytes.subarray(0, 1024).includes(0);
}
function parsed(text2) {
  try {
    return JSON.parse(text2);
  } catch {
    return void 0;
  }
}
function shortened(text2) {
  if (text2.length <= MOST_TEXT2) return { text: text2, isCut: false };
  const end = /[\ud800-\udbff]/.test(text2.charAt(MOST_TEXT2 - 1)) ? MOST_TEXT2 - 1 : MOST_TEXT2;
  return { text: text2.slice(0, end), isCut: true };
}
async function read2(response) {
  const chunks = [];
  let length = 0;
  const reader = response.body?.getReader();
  while (reader !== void 0) {
    const { done, value } = await reader.read();
    if (done) break;
    chunks.push(value);
    length += value.length;
    if (length > MOST_BYTES3) {
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
  return { bytes, isWhole: length <= MOST_BYTES3 };
}
function complaint(response, type, bytes, own) {
  const said = isText(type, bytes) && type !== "text/html" ? new TextDecoder().decode(bytes.subarray(0, 4096)).trim() : "";
  const hint = hintOf(response, own.from);
  return [`The API answered ${response.status}${response.statusText === "" ? "" : ` ${response.statusText}`}.`, hidden(said, own.secrets), hint].filter((part) => part !== "").join("\n");
}
function hidden(text2, secrets) {
  let shown = text2;
  for (const [secret, label] of secrets) {
    if (secret.length <= 3) continue;
    for (const form2 of [secret, encodeURIComponent(secret), encoded(secret)]) shown = shown.replaceAll(form2, label);
  }
  return shown;
}
function hintOf(response, from) {
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
function nextOf(response) {
  const link = response.headers.get("link");
  const found = link === null ? null : /<([^>]*)>[^,]*;\s*rel="?next"?/.exec(link);
  const target = found?.[1];
  if (target === void 0 || !URL.canParse(target, response.url)) return void 0;
  return `the next page has ${new URL(target, response.url).search.slice(1)}`;
}

// runtime/schema.ts
var MOST2 = 8;
var DEEPEST = 64;
function problems(value, schema) {
  const root = isObject(schema) ? schema : {};
  const found = [];
  check(value, schema, "", { root, found, depth: 0 });
  return found.slice(0, MOST2);
}
function check(value, schema, place, context) {
  if (schema === true || context.depth > DEEPEST || context.found.length >= MOST2) return;
  const say = (text2) => context.found.push(`${place === "" ? "arguments" : place.slice(1)} ${text2}`);
  if (schema === false) {
    say("is not allowed");
    return;
  }
  const deeper = { ...context, depth: context.depth + 1 };
  const reference = schema["$ref"];
  if (typeof reference === "string") {
    const target = resolve2(reference, context.root);
    if (target !== void 0) check(value, target, place, deeper);
  }
  if (!checkType(value, schema, say)) return;
  checkChoice(value, schema, say);
  if (typeof value === "string") checkText(value, schema, say);
  if (typeof value === "number") checkNumber(value, schema, say);
  if (Array.isArray(value)) checkItems(value, schema, place, deeper, say);
  if (isObject(value)) checkMembers(value, schema, place, deeper, say);
  checkCombined(value, schema, place, deeper, say);
}
function resolve2(reference, root) {
  if (!reference.startsWith("#")) return void 0;
  let at = root;
  for (const part of reference.slice(1).split("/").slice(1)) {
    const key = decodeURIComponent(part).replaceAll("~1", "/").replaceAll("~0", "~");
    at = isObject(at) && Object.hasOwn(at, key) ? at[key] : void 0;
  }
  return typeof at === "boolean" || isObject(at) ? at : void 0;
}
function typeOf(value) {
  if (value === null) return "null";
  if (Array.isArray(value)) return "array";
  return typeof value;
}
function checkType(value, schema, say) {
  const wanted = schema["type"];
  if (wanted === void 0) return true;
  const types = Array.isArray(wanted) ? wanted : [wanted];
  const own = typeOf(value);
  const fits = types.some((type) => type === own || type === "integer" && own === "number" && Number.isInteger(value));
  if (!fits) say(`must be ${types.join(" or ")}, not ${own}`);
  return fits;
}
function same(a, b) {
  if (a === b) return true;
  if (Array.isArray(a) && Array.isArray(b)) return a.length === b.length && a.every((item, index) => same(item, b[index]));
  if (!isObject(a) || !isObject(b)) return false;
  const keys = Object.keys(a);
  return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key]));
}
function checkChoice(value, schema, say) {
  const choices = schema["enum"];
  if (Array.isArray(choices) && !choices.some((choice) => same(choice, value))) {
    say(`must be one of ${choices.map((choice) => JSON.stringify(choice)).join(", ")}`);
  }
  const only = schema["const"];
  if (only !== void 0 && !same(only, value)) say(`must be ${JSON.stringify(only)}`);
}
function checkText(value, schema, say) {
  const { minLength, maxLength, pattern } = schema;
  const length = [...value].length;
  if (typeof minLength === "number" && length < minLength) say(`must have at least ${minLength} characters`);
  if (typeof maxLength === "number" && length > maxLength) say(`must have at most ${maxLength} characters`);
  if (typeof pattern === "string") {
    const expression = compiled(pattern);
    if (expression !== void 0 && !expression.test(value)) say(`must match ${pattern}`);
  }
}
var expressions = /* @__PURE__ */ new Map();
function compiled(pattern) {
  if (!expressions.has(pattern)) {
    let expression;
    try {
      expression = new RegExp(pattern, "u");
    } catch {
      expression = void 0;
    }
    expressions.set(pattern, expression);
  }
  return expressions.get(pattern);
}
function checkNumber(value, schema, say) {
  const { minimum, maximum, exclusiveMinimum, exclusiveMaximum, multipleOf } = schema;
  if (typeof minimum === "number" && value < minimum) say(`must be at least ${minimum}`);
  if (typeof maximum === "number" && value > maximum) say(`must be at most ${maximum}`);
  if (typeof exclusiveMinimum === "number" && value <= exclusiveMinimum) say(`must be more than ${exclusiveMinimum}`);
  if (typeof exclusiveMaximum === "number" && value >= exclusiveMaximum) say(`must be less than ${exclusiveMaximum}`);
  if (typeof multipleOf === "number" && multipleOf > 0) {
    const ratio = value / multipleOf;
    if (Math.abs(ratio - Math.round(ratio)) > 1e-9 * Math.max(1, Math.abs(ratio))) say(`must be a multiple of ${multipleOf}`);
  }
}
function checkItems(value, schema, place, context, say) {
  const { minItems, maxItems, uniqueItems, prefixItems, items } = schema;
  if (typeof minItems === "number" && value.length < minItems) say(`must have at least ${minItems} items`);
  if (typeof maxItems === "number" && value.length > maxItems) say(`must have at most ${maxItems} items`);
  if (uniqueItems === true && value.some((item, index) => value.slice(0, index).some((other) => same(item, other)))) {
    say("must not have the same item twice");
  }
  const first = Array.isArray(prefixItems) ? prefixItems : [];
  value.forEach((item, index) => {
    const own = index < first.length ? first[index] : items;
    if (own !== void 0) check(item, own, `${place}.${index}`, context);
  });
}
function checkMembers(value, schema, place, context, say) {
  const { required, minProperties, maxProperties, additionalProperties } = schema;
  const properties = isObject(schema["properties"]) ? schema["properties"] : {};
  const patterns = Object.entries(isObject(schema["patternProperties"]) ? schema["patternProperties"] : {});
  for (const name of Array.isArray(required) ? required : []) {
    if (typeof name === "string" && !Object.hasOwn(value, name)) say(`must have ${JSON.stringify(name)}`);
  }
  const names = Object.keys(value);
  if (typeof minProperties === "number" && names.length < minProperties) say(`must have at least ${minProperties} members`);
  if (typeof maxProperties === "number" && names.length > maxProperties) say(`must have at most ${maxProperties} members`);
  for (const name of names) {
    const member = value[name];
    const own = Object.hasOwn(properties, name) ? properties[name] : void 0;
    if (own !== void 0) check(member, own, `${place}.${name}`, context);
    const matched = patterns.filter(([pattern]) => compiled(pattern)?.test(name) === true);
    for (const [, more] of matched) check(member, more, `${place}.${name}`, context);
    if (own !== void 0 || matched.length > 0 || additionalProperties === void 0) continue;
    if (additionalProperties === false) {
      const known = Object.keys(properties);
      say(`has no ${JSON.stringify(name)}${known.length > 0 ? `; it takes ${known.join(", ")}` : "; it takes nothing"}`);
    } else {
      check(member, additionalProperties, `${place}.${name}`, context);
    }
  }
}
function checkCombined(value, schema, place, context, say) {
  const list = (key) => Array.isArray(schema[key]) ? schema[key] : [];
  const fits = (one2) => {
    const found = [];
    check(value, one2, place, { ...context, found });
    return found.length === 0;
  };
  for (const one2 of list("allOf")) check(value, one2, place, context);
  const any = list("anyOf");
  if (any.length > 0 && !any.some(fits)) sayNearest(value, any, place, context, say);
  const one = list("oneOf");
  if (one.length > 0 && !one.some(fits)) sayNearest(value, one, place, context, say);
  const not = schema["not"];
  if (not !== void 0 && fits(not)) say("has a form that is not allowed");
}
function sayNearest(value, alternatives, place, context, say) {
  let nearest;
  for (const alternative of alternatives) {
    const found = [];
    check(value, alternative, place, { ...context, found });
    if (nearest === void 0 || found.length < nearest.length) nearest = found;
  }
  if (nearest === void 0) say("fits none of its alternatives");
  else context.found.push(...nearest);
}

// runtime/meta.ts
var MOST_FOUND = 50;
var USUALLY_FOUND = 20;
async function callMeta(server, action, args, invoke) {
  const operations = server.operations ?? [];
  if (action.does === "find") return find(operations, args);
  const name = args["operation"];
  const operation = operations.find((one) => one.name === name);
  if (operation === void 0) throw new ToolError(`There is no operation ${JSON.stringify(name)}: find its name first.`);
  if (action.does === "describe") return text(describe(operation));
  const reads = operation.annotations.readOnlyHint;
  if (reads !== (action.does === "read")) {
    throw new ToolError(`${operation.name} ${reads ? "only reads: call it by the tool that reads" : "changes things: call it by the tool that writes"}.`);
  }
  const given = args["arguments"] ?? {};
  if (!isObject(given)) throw new ToolError("arguments must be an object.");
  const wrong = problems(given, operation.inputSchema);
  if (wrong.length > 0) throw new ToolError(`${wrong.join("\n")}
${operation.name} takes: ${JSON.stringify(operation.inputSchema)}`);
  return invoke(operation, given);
}
function text(value) {
  return { content: [{ type: "text", text: JSON.stringify(value) }] };
}
function describe(operation) {
  const { name, title, description, annotations, inputSchema } = operation;
  return { name, title, description, reads: annotations.readOnlyHint, arguments: inputSchema };
}
function words(value) {
  return value.toLowerCase().split(/[^\p{L}\p{N}]+/u).filter((word) => word !== "");
}
function find(operations, args) {
  const wanted = words(typeof args["query"] === "string" ? args["query"] : "");
  const limit = Math.min(typeof args["limit"] === "number" ? args["limit"] : USUALLY_FOUND, MOST_FOUND);
  const scored = operations.map((operation, index) => ({ operation, index, score: score(operation, wanted) }));
  const found = scored.filter((one) => wanted.length === 0 || one.score > 0).sort((a, b) => b.score - a.score || a.index - b.index);
  const shown = found.slice(0, limit).map(({ operation }) => ({ name: operation.name, title: operation.title, reads: operation.annotations.readOnlyHint }));
  return text({ operations: shown, found: found.length, of: operations.length });
}
function score(operation, wanted) {
  const name = words(operation.name);
  const rest = new Set(words(`${operation.title} ${operation.description}`));
  let sum = 0;
  for (const word of wanted) {
    const stem = word.length > 3 ? word.replace(/s$/, "") : word;
    if (name.some((part) => part === word || part === stem || part === `${stem}s`)) sum += 3;
    else if (rest.has(word) || rest.has(stem) || rest.has(`${stem}s`)) sum += 1;
  }
  return sum;
}

// runtime/protocol.ts
var MODERN = "2026-07-28";
var LEGACY = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
var PREFIX = "io.modelcontextprotocol/";
var LONGEST = 16 << 20;
var PAGE = 100;
var PARSE_ERROR = -32700;
var INVALID_REQUEST = -32600;
var METHOD_NOT_FOUND = -32601;
var INVALID_PARAMS = -32602;
var INTERNAL_ERROR = -32603;
var UNSUPPORTED_VERSION = -32022;
var RpcError = class extends Error {
  code;
  data;
  constructor(code, message, data) {
    super(message);
    this.code = code;
    this.data = data;
  }
};
var Connection = class {
  #server;
  #call;
  #write;
  #running = /* @__PURE__ */ new Map();
  #revision;
  constructor(server, call2, write2) {
    this.#server = server;
    this.#call = call2;
    this.#write = write2;
  }
  /** Takes one line; the answer is written when it is there. */
  async take(line) {
    if (line.trim() === "") return;
    if (line.length > LONGEST) return this.#fail(null, new RpcError(INVALID_REQUEST, "Invalid request: it is too long"));
    let message;
    try {
      message = JSON.parse(line);
    } catch {
      return this.#fail(null, new RpcError(PARSE_ERROR, "Parse error: it is not JSON"));
    }
    if (Array.isArray(message)) return this.#batch(message);
    const answer = await this.#answer(message);
    if (answer !== void 0) this.#send(answer);
  }
  /** Ends whatever is being worked on. */
  close() {
    for (const controller of this.#running.values()) controller.abort();
  }
  /** Batches were part of 2025-03-26 alone. */
  async #batch(messages) {
    if (this.#revision !== "2025-03-26" || messages.length === 0) {
      return this.#fail(null, new RpcError(INVALID_REQUEST, "Invalid request: batches are not part of this revision"));
    }
    const answers = await Promise.all(messages.map((message) => this.#answer(message)));
    const given = answers.filter((answer) => answer !== void 0);
    if (given.length > 0) this.#send(given);
  }
  async #answer(message) {
    if (!isObject(message) || message["jsonrpc"] !== "2.0") return failure(null, new RpcError(INVALID_REQUEST, "Invalid request"));
    const { id, method } = message;
    if (typeof method !== "string") {
      return "result" in message || "error" in message ? void 0 : failure(null, new RpcError(INVALID_REQUEST, "Invalid request"));
    }
    const params = message["params"] ?? {};
    if (id === void 0) {
      this.#notified(method, params);
      return void 0;
    }
    if (typeof id !== "string" && typeof id !== "number") return failure(null, new RpcError(INVALID_REQUEST, "Invalid request: its id is neither text nor number"));
    const controller = new AbortController();
    this.#running.set(id, controller);
    try {
      if (!isObject(params)) throw new RpcError(INVALID_PARAMS, "Invalid params: they must be an object");
      const result = await this.#request(method, params, controller.signal);
      return controller.signal.aborted ? void 0 : { jsonrpc: "2.0", id, result };
    } catch (error) {
      if (controller.signal.aborted) return void 0;
      if (error instanceof RpcError) return failure(id, error);
      process.stderr.write(`${method} failed: ${error instanceof Error ? error.stack ?? error.message : String(error)}
`);
      return failure(id, new RpcError(INTERNAL_ERROR, "Internal error"));
    } finally {
      this.#running.delete(id);
    }
  }
  #notified(method, params) {
    const id = method === "notifications/cancelled" && isObject(params) ? params["requestId"] : void 0;
    if (typeof id === "string" || typeof id === "number") this.#running.get(id)?.abort();
  }
  async #request(method, params, signal) {
    const isModern = this.#isModern(method, params);
    const done = (result) => isModern ? { resultType: "complete", ...result } : result;
    const listed = (result) => done(isModern ? { ttlMs: 36e5, cacheScope: "public", ...result } : result);
    switch (method) {
      case "server/discover":
        if (isModern) return listed(this.#discovered());
        break;
      case "initialize":
        if (!isModern) return this.#initialized(params);
        break;
      case "ping":
        if (!isModern) return {};
        break;
      case "tools/list":
        return listed(this.#tools(params));
      case "tools/call":
        return done(await this.#called(params, signal));
    }
    throw new RpcError(METHOD_NOT_FOUND, `Method not found: ${method}`);
  }
  /** Fails where a request of the present revision leaves out what it has to say. */
  #isModern(method, params) {
    const meta = isObject(params["_meta"]) ? params["_meta"] : {};
    const version = meta[`${PREFIX}protocolVersion`];
    if (version === void 0 && method !== "server/discover") return false;
    if (typeof version !== "string" || !isObject(meta[`${PREFIX}clientCapabilities`])) {
      throw new RpcError(INVALID_PARAMS, `Invalid params: _meta has to have ${PREFIX}protocolVersion and ${PREFIX}clientCapabilities`);
    }
    if (version !== MODERN) {
      throw new RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", { supported: [MODERN, ...LEGACY], requested: version.slice(0, 64) });
    }
    return true;
  }
  #about() {
    const { name, version, title } = this.#server;
    return { name, version, ...title === void 0 ? {} : { title } };
  }
  #instructions() {
    return this.#server.instructions === void 0 ? {} : { instructions: this.#server.instructions };
  }
  #discovered() {
    const about = { [`${PREFIX}serverInfo`]: this.#about() };
    return { supportedVersions: [MODERN, ...LEGACY], capabilities: { tools: {} }, ...this.#instructions(), _meta: about };
  }
  #initialized(params) {
    const asked = params["protocolVersion"];
    if (typeof asked !== "string") throw new RpcError(INVALID_PARAMS, "Invalid params: protocolVersion is missing");
    this.#revision = LEGACY.includes(asked) ? asked : LEGACY[0];
    return { protocolVersion: this.#revision, capabilities: { tools: {} }, serverInfo: this.#about(), ...this.#instructions() };
  }
  #tools(params) {
    const { tools } = this.#server;
    const cursor = params["cursor"];
    const from = cursor === void 0 || cursor === null ? 0 : Number(cursor);
    if (!Number.isInteger(from) || from < 0 || from > 0 && from >= tools.length) throw new RpcError(INVALID_PARAMS, "Invalid params: no page has this cursor");
    const page2 = tools.slice(from, from + PAGE).map(({ action: _, ...shown }) => shown);
    return from + PAGE < tools.length ? { tools: page2, nextCursor: String(from + PAGE) } : { tools: page2 };
  }
  async #called(params, signal) {
    const tool = this.#server.tools.find((one) => one.name === params["name"]);
    if (tool === void 0) throw new RpcError(INVALID_PARAMS, `Unknown tool: ${String(params["name"]).slice(0, 128)}`);
    const args = params["arguments"] ?? {};
    if (!isObject(args)) throw new RpcError(INVALID_PARAMS, "Invalid params: arguments must be an object");
    const wrong = problems(args, tool.inputSchema);
    if (wrong.length > 0) return failed(wrong.join("\n"));
    try {
      return await this.#call(tool, args, signal);
    } catch (error) {
      if (error instanceof ToolError) return failed(error.message);
      throw error;
    }
  }
  #fail(id, error) {
    this.#send(failure(id, error));
  }
  #send(message) {
    this.#write(`${JSON.stringify(message)}
`);
  }
};
function failure(id, error) {
  const data = error.data === void 0 ? {} : { data: error.data };
  return { jsonrpc: "2.0", id, error: { code: error.code, message: error.message, ...data } };
}

// runtime.ts
var PATIENCE = 1500;
async function call(server, tool, args, signal) {
  const { action } = tool;
  switch (action.kind) {
    case "http":
      return callHttp(server, action, args, tool.outputSchema, signal);
    case "graphql":
      return callGraphql(server, action, args, tool.outputSchema, signal);
    case "meta":
      return callMeta(server, action, args, (operation, given) => call(server, operation, given, signal));
    case "builtin": {
      const handler = BUILTINS[action.handler];
      if (handler === void 0) throw new ToolError(`This server has no ${action.handler}.`);
      return handler(args, { name: server.name, signal });
    }
  }
}
function serve(server) {
  const connection = new Connection(server, (tool, args, signal) => call(server, tool, args, signal), (line) => process.stdout.write(line));
  const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity, terminal: false });
  const pending = /* @__PURE__ */ new Set();
  lines.on("line", (line) => {
    const taken = connection.take(line).finally(() => pending.delete(taken));
    pending.add(taken);
  });
  lines.on("close", () => {
    const patience = setTimeout(() => connection.close(), PATIENCE);
    void Promise.allSettled(pending).then(() => {
      clearTimeout(patience);
      process.stdout.write("", () => process.exit(0));
    });
  });
  process.stdout.on("error", () => process.exit(0));
}
export {
  call,
  serve
};
