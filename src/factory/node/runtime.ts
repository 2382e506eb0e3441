// What all generated servers have in common. `index.ts` calls `serve` with the table in `tools.ts`.

import * as readline from "node:readline";

import { BUILTINS } from "./runtime/builtin.js";
import { callGraphql, callHttp } from "./runtime/call.js";
import { callMeta } from "./runtime/meta.js";
import { Connection } from "./runtime/protocol.js";
import { ToolError, type JsonObject, type Result, type Server, type Tool } from "./runtime/types.js";

export type { Server, Tool } from "./runtime/types.js";

/** How long calls may go on once the client has gone, in milliseconds. */
const PATIENCE = 1500;

/** Calls one tool with arguments that fit its schema. */
export async function call(server: Server, tool: Tool, args: JsonObject, signal: AbortSignal): Promise<Result> {
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
      if (handler === undefined) throw new ToolError(`This server has no ${action.handler}.`);
      return handler(args, { name: server.name, signal });
    }
  }
}

/** Speaks MCP on standard input and output until the input ends. */
export function serve(server: Server): void {
  const connection = new Connection(server, (tool, args, signal) => call(server, tool, args, signal), (line) => process.stdout.write(line));
  const lines = readline.createInterface({ input: process.stdin, crlfDelay: Infinity, terminal: false });
  const pending = new Set<Promise<void>>();
  lines.on("line", (line) => {
    const taken = connection.take(line).finally(() => pending.delete(taken));
    pending.add(taken);
  });
  lines.on("close", () => {
    // What was asked before the end is answered, unless it takes long.
    const patience = setTimeout(() => connection.close(), PATIENCE);
    void Promise.allSettled(pending).then(() => {
      clearTimeout(patience);
      process.stdout.write("", () => process.exit(0));
    });
  });
  process.stdout.on("error", () => process.exit(0));
}
