// MCP over standard input and output: revision 2026-07-28, where each request says all of itself, and those before it,
// which begin with `initialize`. Nothing but messages is written to standard output.

import { problems } from "./schema.js";
import { failed, isObject, ToolError, type Json, type JsonObject, type Result, type Server, type Tool } from "./types.js";

export const MODERN = "2026-07-28";
const LEGACY = ["2025-11-25", "2025-06-18", "2025-03-26", "2024-11-05"];
const PREFIX = "io.modelcontextprotocol/";
/** What one message may measure, in characters. */
const LONGEST = 16 << 20;
const PAGE = 100;

const PARSE_ERROR = -32700;
const INVALID_REQUEST = -32600;
const METHOD_NOT_FOUND = -32601;
const INVALID_PARAMS = -32602;
const INTERNAL_ERROR = -32603;
const UNSUPPORTED_VERSION = -32022;

type Id = string | number;

class RpcError extends Error {
  readonly code: number;
  readonly data: Json | undefined;
  constructor(code: number, message: string, data?: Json) {
    super(message);
    this.code = code;
    this.data = data;
  }
}

export type Call = (tool: Tool, args: JsonObject, signal: AbortSignal) => Promise<Result>;

/** One client at the other end of a pipe. */
export class Connection {
  readonly #server: Server;
  readonly #call: Call;
  readonly #write: (line: string) => void;
  readonly #running = new Map<Id, AbortController>();
  #revision: string | undefined;

  constructor(server: Server, call: Call, write: (line: string) => void) {
    this.#server = server;
    this.#call = call;
    this.#write = write;
  }

  /** Takes one line; the answer is written when it is there. */
  async take(line: string): Promise<void> {
    if (line.trim() === "") return;
    if (line.length > LONGEST) return this.#fail(null, new RpcError(INVALID_REQUEST, "Invalid request: it is too long"));
    let message: Json;
    try {
      message = JSON.parse(line) as Json;
    } catch {
      return this.#fail(null, new RpcError(PARSE_ERROR, "Parse error: it is not JSON"));
    }
    if (Array.isArray(message)) return this.#batch(message);
    const answer = await this.#answer(message);
    if (answer !== undefined) this.#send(answer);
  }

  /** Ends whatever is being worked on. */
  close(): void {
    for (const controller of this.#running.values()) controller.abort();
  }

  /** Batches were part of 2025-03-26 alone. */
  async #batch(messages: readonly Json[]): Promise<void> {
    if (this.#revision !== "2025-03-26" || messages.length === 0) {
      return this.#fail(null, new RpcError(INVALID_REQUEST, "Invalid request: batches are not part of this revision"));
    }
    const answers = await Promise.all(messages.map((message) => this.#answer(message)));
    const given = answers.filter((answer) => answer !== undefined);
    if (given.length > 0) this.#send(given);
  }

  async #answer(message: Json): Promise<JsonObject | undefined> {
    if (!isObject(message) || message["jsonrpc"] !== "2.0") return failure(null, new RpcError(INVALID_REQUEST, "Invalid request"));
    const { id, method } = message;
    if (typeof method !== "string") {
      // An answer: nothing was asked.
      return "result" in message || "error" in message ? undefined : failure(null, new RpcError(INVALID_REQUEST, "Invalid request"));
    }
    const params = message["params"] ?? {};
    if (id === undefined) {
      this.#notified(method, params);
      return undefined;
    }
    if (typeof id !== "string" && typeof id !== "number") return failure(null, new RpcError(INVALID_REQUEST, "Invalid request: its id is neither text nor number"));
    const controller = new AbortController();
    this.#running.set(id, controller);
    try {
      if (!isObject(params)) throw new RpcError(INVALID_PARAMS, "Invalid params: they must be an object");
      const result = await this.#request(method, params, controller.signal);
      // A cancelled request gets no answer.
      return controller.signal.aborted ? undefined : { jsonrpc: "2.0", id, result };
    } catch (error) {
      if (controller.signal.aborted) return undefined;
      if (error instanceof RpcError) return failure(id, error);
      process.stderr.write(`${method} failed: ${error instanceof Error ? (error.stack ?? error.message) : String(error)}\n`);
      return failure(id, new RpcError(INTERNAL_ERROR, "Internal error"));
    } finally {
      this.#running.delete(id);
    }
  }

  #notified(method: string, params: Json): void {
    const id = method === "notifications/cancelled" && isObject(params) ? params["requestId"] : undefined;
    if (typeof id === "string" || typeof id === "number") this.#running.get(id)?.abort();
  }

  async #request(method: string, params: JsonObject, signal: AbortSignal): Promise<JsonObject> {
    const isModern = this.#isModern(method, params);
    const done = (result: JsonObject): JsonObject => (isModern ? { resultType: "complete", ...result } : result);
    const listed = (result: JsonObject): JsonObject => done(isModern ? { ttlMs: 3_600_000, cacheScope: "public", ...result } : result);
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
        return done((await this.#called(params, signal)) as unknown as JsonObject);
    }
    throw new RpcError(METHOD_NOT_FOUND, `Method not found: ${method}`);
  }

  /** Fails where a request of the present revision leaves out what it has to say. */
  #isModern(method: string, params: JsonObject): boolean {
    const meta = isObject(params["_meta"]) ? params["_meta"] : {};
    const version = meta[`${PREFIX}protocolVersion`];
    if (version === undefined && method !== "server/discover") return false;
    if (typeof version !== "string" || !isObject(meta[`${PREFIX}clientCapabilities`])) {
      throw new RpcError(INVALID_PARAMS, `Invalid params: _meta has to have ${PREFIX}protocolVersion and ${PREFIX}clientCapabilities`);
    }
    if (version !== MODERN) {
      throw new RpcError(UNSUPPORTED_VERSION, "Unsupported protocol version", { supported: [MODERN, ...LEGACY], requested: version.slice(0, 64) });
    }
    return true;
  }

  #about(): JsonObject {
    const { name, version, title } = this.#server;
    return { name, version, ...(title === undefined ? {} : { title }) };
  }

  #instructions(): JsonObject {
    return this.#server.instructions === undefined ? {} : { instructions: this.#server.instructions };
  }

  #discovered(): JsonObject {
    const about = { [`${PREFIX}serverInfo`]: this.#about() };
    return { supportedVersions: [MODERN, ...LEGACY], capabilities: { tools: {} }, ...this.#instructions(), _meta: about };
  }

  #initialized(params: JsonObject): JsonObject {
    const asked = params["protocolVersion"];
    if (typeof asked !== "string") throw new RpcError(INVALID_PARAMS, "Invalid params: protocolVersion is missing");
    this.#revision = LEGACY.includes(asked) ? asked : LEGACY[0];
    return { protocolVersion: this.#revision as string, capabilities: { tools: {} }, serverInfo: this.#about(), ...this.#instructions() };
  }

  #tools(params: JsonObject): JsonObject {
    const { tools } = this.#server;
    const cursor = params["cursor"];
    const from = cursor === undefined || cursor === null ? 0 : Number(cursor);
    if (!Number.isInteger(from) || from < 0 || (from > 0 && from >= tools.length)) throw new RpcError(INVALID_PARAMS, "Invalid params: no page has this cursor");
    const page = tools.slice(from, from + PAGE).map(({ action: _, ...shown }) => shown as unknown as JsonObject);
    return from + PAGE < tools.length ? { tools: page, nextCursor: String(from + PAGE) } : { tools: page };
  }

  async #called(params: JsonObject, signal: AbortSignal): Promise<Result> {
    const tool = this.#server.tools.find((one) => one.name === params["name"]);
    if (tool === undefined) throw new RpcError(INVALID_PARAMS, `Unknown tool: ${String(params["name"]).slice(0, 128)}`);
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

  #fail(id: Id | null, error: RpcError): void {
    this.#send(failure(id, error));
  }

  #send(message: JsonObject | readonly JsonObject[]): void {
    this.#write(`${JSON.stringify(message)}\n`);
  }
}

function failure(id: Id | null, error: RpcError): JsonObject {
  const data = error.data === undefined ? {} : { data: error.data };
  return { jsonrpc: "2.0", id, error: { code: error.code, message: error.message, ...data } };
}
