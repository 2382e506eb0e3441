// Where servers keep what they are told to keep.

import * as fs from "node:fs/promises";
import * as os from "node:os";
import * as path from "node:path";

import { variable } from "../auth.js";

/** The folder of a server: `MCP_DATA_DIR`, else one of its own in the user's home. */
export async function folder(name: string): Promise<string> {
  const place = variable("MCP_DATA_DIR") ?? path.join(os.homedir(), ".local", "share", name);
  await fs.mkdir(place, { recursive: true });
  return place;
}

let last: Promise<unknown> = Promise.resolve();

/** One change after the other. */
export function inTurn<T>(does: () => Promise<T>): Promise<T> {
  const turn = last.then(does, does);
  last = turn.catch(() => undefined);
  return turn;
}

/** The file is whole at every moment: written beside its place, then moved there. */
export async function write(file: string, bytes: string | Uint8Array): Promise<void> {
  const draft = `${file}.${process.pid}.${Date.now()}.draft`;
  try {
    await fs.writeFile(draft, bytes, { mode: 0o600 });
    await fs.rename(draft, file);
  } catch (error) {
    await fs.rm(draft, { force: true });
    throw error;
  }
}

export function isMissing(error: unknown): boolean {
  return (error as { readonly code?: unknown }).code === "ENOENT";
}
