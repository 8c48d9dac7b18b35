/**
 * Writes what happens in a pod into a trace.
 * @module
 */
import type { Act } from '../runtime/cast.ts';
import { actRecord } from './act-record.ts';
import type { TraceIdentity } from './identity.ts';
import type { Prompts } from './redaction.ts';
import { promptsOf, type RunHeader } from './run-header.ts';
import { encodeRecord } from './trace-codec.ts';
import { TraceWriter } from './trace-writer.ts';

export class Recorder {
  readonly #writer: TraceWriter;
  readonly #prompts: Prompts;

  /** @throws as `TraceWriter.create` */
  constructor(path: string, header: RunHeader) {
    this.#writer = TraceWriter.create(path, header);
    this.#prompts = promptsOf(header);
  }

  record(act: Act, time_us: number): void {
    this.#writer.append(encodeRecord(actRecord(act, time_us, this.#prompts)));
  }

  /** May be called once. */
  close(): TraceIdentity {
    return this.#writer.close();
  }
}
