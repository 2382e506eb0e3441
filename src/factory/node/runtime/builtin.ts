// Tools that need no API: each does what it says, by itself.

import { calculator } from "./builtin/calculator.js";
import { fetching } from "./builtin/fetching.js";
import { files } from "./builtin/files.js";
import { records } from "./builtin/records.js";
import type { JsonObject, Result } from "./types.js";

export interface Around {
  /** The server's name. */
  readonly name: string;
  readonly signal: AbortSignal;
}

export type Handler = (args: JsonObject, around: Around) => Promise<Result> | Result;

export const BUILTINS: { readonly [handler: string]: Handler | undefined } = { ...calculator, ...records, ...files, ...fetching };
