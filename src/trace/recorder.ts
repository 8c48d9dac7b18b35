/**
 * Writes what happens in a pod into a trace. What comes of the disk costs the recording, not the run.
 * @module
 */
import { MinipodError } from '../protocol/errors.ts';
import type { Act } from '../runtime/cast.ts';
import { actRecord } from './act-record.ts';
import type { TraceIdentity } from './identity.ts';
import type { TraceDisk } from './output-file.ts';
import type { Prompts } from './redaction.ts';
import { encodeRecord } from './trace-codec.ts';
import { TraceWriter } from './trace-writer.ts';

export class Recorder {
  readonly #prompts: Prompts;
  readonly #onEnded: (error: MinipodError) => void;
  /** Null: recording has ended. */
  #writer: TraceWriter | null;

  /** `onEnded`: there is no whole trace of the run; called once at most. @throws as `TraceWriter.create` */
  constructor(path: string, header: object, prompts: Prompts, onEnded: (error: MinipodError) => void, write?: TraceDisk['write']) {
    this.#writer = TraceWriter.create(path, header, { write });
    this.#prompts = prompts;
    this.#onEnded = onEnded;
  }

  record(act: Act, time_us: number): void {
    if (this.#writer !== null) this.append(encodeRecord(actRecord(act, time_us, this.#prompts)));
  }

  append(record: Uint8Array): void {
    if (this.#writer === null) return;
    try {
      this.#writer.append(record);
    } catch (error) {
      this.#end(error);
    }
  }

  /** Null: recording has ended before. */
  close(): TraceIdentity | null {
    if (this.#writer === null) return null;
    try {
      const identity = this.#writer.close();
      this.#writer = null;
      return identity;
    } catch (error) {
      this.#end(error);
      return null;
    }
  }

  /** Where not the disk but a record was at fault, what came before it is written. */
  #end(error: unknown): void {
    using _writer = this.#writer;
    this.#writer = null;
    if (!(error instanceof MinipodError)) throw error;
    this.#onEnded(error);
  }
}
