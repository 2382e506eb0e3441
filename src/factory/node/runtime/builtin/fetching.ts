// Pages and files of the web, as text. Addresses of private networks are not asked: names are looked up once, and what is
// connected to is what was looked at.

import * as dns from "node:dns";
import * as http from "node:http";
import * as https from "node:https";
import * as net from "node:net";

import { variable } from "../auth.js";
import type { Handler } from "../builtin.js";
import { ToolError, type Result } from "../types.js";

const MOST_BYTES = 2 << 20;
const MOST_TEXT = 25_000;
const MOST_REDIRECTS = 5;
const LIMIT = 30_000;

/** Ranges that are not of the public internet (RFC 6890). */
const PRIVATE = new net.BlockList();
const RANGES: readonly (readonly [string, number, "ipv4" | "ipv6"])[] = [
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
  ["ff00::", 8, "ipv6"],
];
for (const [prefix, length, family] of RANGES) PRIVATE.addSubnet(prefix, length, family);

function isPrivate(address: string): boolean {
  return variable("MCP_ALLOW_PRIVATE") !== "1" && PRIVATE.check(address, net.isIP(address) === 6 ? "ipv6" : "ipv4");
}

function refused(host: string): ToolError {
  return new ToolError(`${host} is an address of a private network, which is not asked (MCP_ALLOW_PRIVATE=1 allows it).`);
}

interface Page {
  readonly status: number;
  readonly type: string;
  readonly location: string | undefined;
  readonly bytes: readonly Uint8Array[];
}

function get(url: URL, agent: string, signal: AbortSignal): Promise<Page> {
  const host = url.hostname.replace(/^\[|\]$/g, "");
  if (net.isIP(host) !== 0 && isPrivate(host)) throw refused(host);
  const lookup: http.Lookup = (name, options, done) => {
    dns.lookup(name, { ...options, all: true }, (error, found) => {
      if (error !== null) return done(error, []);
      if (found.some(({ address }) => isPrivate(address))) return done(refused(name), []);
      if (options.all === true) return done(null, found);
      return done(null, found[0]?.address ?? "", found[0]?.family);
    });
  };
  const headers = { "User-Agent": agent, Accept: "text/*, application/json;q=0.9, */*;q=0.1", "Accept-Encoding": "identity" };
  return new Promise((resolve, reject) => {
    const request = (url.protocol === "https:" ? https : http).get(url, { lookup, headers, signal }, (response) => {
      const bytes: Uint8Array[] = [];
      let length = 0;
      const done = () => resolve({ status: response.statusCode ?? 0, type: response.headers["content-type"] ?? "", location: response.headers["location"], bytes });
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

const HIDING = ["script", "style", "noscript", "template"];
const BREAKING = new Set(["br", "p", "div", "li", "tr", "h1", "h2", "h3", "h4", "h5", "h6"]);
const NAMED: { readonly [name: string]: string } = { amp: "&", lt: "<", gt: ">", quot: '"', apos: "'", nbsp: " " };

/** The text between tags, in one pass: each character is looked at once. */
function plain(html: string): string {
  const lower = html.toLowerCase();
  const parts: string[] = [];
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
  const text = parts.join("").replace(/&(#x?[0-9a-f]{1,8}|[a-z]{1,8});/gi, (whole, name: string) => {
    if (!name.startsWith("#")) return NAMED[name.toLowerCase()] ?? whole;
    const code = /^#x/i.test(name) ? parseInt(name.slice(2), 16) : parseInt(name.slice(1), 10);
    return code > 0 && code <= 0x10ffff ? String.fromCodePoint(code) : whole;
  });
  const lines = text.split("\n").map((line) => line.replace(/[ \t\r\u00a0]+/g, " ").trim());
  return lines.filter((line) => line !== "").join("\n");
}

function told(url: URL, page: Page, raw: boolean, start: number): Result {
  const type = page.type.split(";")[0]?.trim() ?? "";
  if (page.status < 200 || page.status > 299) throw new ToolError(`${url.host} answered ${page.status}.`);
  const length = page.bytes.reduce((sum, chunk) => sum + chunk.length, 0);
  if (!/^text\/|json|xml|javascript|^$/.test(type)) return { content: [{ type: "text", text: `${length} bytes of ${type}.` }] };
  const decoder = new TextDecoder();
  const whole = page.bytes.map((chunk) => decoder.decode(chunk, { stream: true })).join("") + decoder.decode();
  const text = type === "text/html" && !raw ? plain(whole) : whole;
  const more = start + MOST_TEXT < text.length ? `\n[there is more: call again with start=${start + MOST_TEXT}]` : "";
  return { content: [{ type: "text", text: text.slice(start, start + MOST_TEXT) + more }] };
}

export const fetching: { readonly [handler: string]: Handler } = {
  "fetch.get": async (args, around) => {
    const given = String(args["url"]);
    if (!URL.canParse(given)) throw new ToolError("url must be an absolute address, such as https://example.org/.");
    let url = new URL(given);
    const signal = AbortSignal.any([around.signal, AbortSignal.timeout(LIMIT)]);
    for (let hop = 0; ; hop += 1) {
      if (url.protocol !== "https:" && url.protocol !== "http:") throw new ToolError("Only http and https addresses are fetched.");
      if (url.username !== "" || url.password !== "") throw new ToolError("The address must not have a user or a password in it.");
      const page = await get(url, around.name, signal).catch((error: unknown) => {
        if (error instanceof ToolError) throw error;
        throw new ToolError(`${url.host} could not be reached: ${error instanceof Error ? error.message : "unknown"}.`);
      });
      if (page.location === undefined || page.status < 300 || page.status > 399) {
        return told(url, page, args["raw"] === true, typeof args["start"] === "number" ? args["start"] : 0);
      }
      if (hop === MOST_REDIRECTS) throw new ToolError("The page sends on in circles.");
      if (!URL.canParse(page.location, url)) throw new ToolError("The page sends on to something that is no address.");
      url = new URL(page.location, url);
    }
  },
};
