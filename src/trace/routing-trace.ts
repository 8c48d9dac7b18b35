/**
 * Routing traces: which experts each token of a run went to, and with which weights (docs/routing-trace.md). The file is a trace's (file-layout.ts): blocks that
 * a crash costs the last of, an end mark, an identity. Memory is that of one block, however long the run.
 * @module
 */
import * as z from 'zod';
import { MinipodError } from '../protocol/errors.ts';
import { firstIssue, inWords } from '../protocol/value-words.ts';
import { VERSION } from '../protocol/version.ts';
import type { TraceDamage } from './damage.ts';
import type { TraceIdentity } from './identity.ts';
import { isRouted, packRouted, type RoutedStep, readRouted } from './routing-record.ts';
import { decodeRecord } from './trace-codec.ts';
import { TraceReader } from './trace-reader.ts';
import { TraceWriter } from './trace-writer.ts';

const EXPERTS_MAX = 65_536;
const count = z.int().min(0);

const routingHeaderSchema = z.object({
  kind: z.literal('routing'),
  code_version: z.string(),
  clock: z.enum(['live', 'virtual']),
  /** Of a virtual clock. */
  seed: z.int().nullable(),
  kernels: z.enum(['real', 'hash']),
  model: z.object({ name: z.string(), digest: z.string() }),
  topology: z.string(),
  npus: count,
  /** Those of the model that have experts, ascending. */
  layers: z.array(count),
  /** Of a layer. */
  experts: z.int().min(1).max(EXPERTS_MAX),
  /** Experts of a token. */
  top_k: z.int().min(1),
});
export type RoutingHeader = z.output<typeof routingHeaderSchema>;

export const routingHeader = (run: Omit<RoutingHeader, 'kind' | 'code_version'>): RoutingHeader => ({ kind: 'routing', code_version: VERSION, ...run });

/**
 * @example
 * using writer = RoutingTraceWriter.create('run.routing', header);
 * writer.append({ npu: 0, step: 1, time_us: 0, spans, experts, weights });
 * writer.close();
 */
export class RoutingTraceWriter implements Disposable {
  readonly header: RoutingHeader;
  readonly #writer: TraceWriter;

  private constructor(header: RoutingHeader, writer: TraceWriter) {
    this.header = header;
    this.#writer = writer;
  }

  /** @throws `trace_not_written` where the file exists or cannot be written, `invalid_request` for a header that is none */
  static create(path: string, run: Omit<RoutingHeader, 'kind' | 'code_version'>): RoutingTraceWriter {
    const result = routingHeaderSchema.safeParse(routingHeader(run), inWords);
    if (!result.success) {
      const { path: field, message } = firstIssue(result.error.issues);
      throw new MinipodError('invalid_request', `${['header', ...field].join('.')}: ${message}`, { param: 'header' });
    }
    return new RoutingTraceWriter(result.data, TraceWriter.create(path, result.data));
  }

  /** @throws `invalid_request` for a step that does not fit the header, `trace_not_written` when the disk fails */
  append(step: RoutedStep): void {
    this.#writer.append(packRouted(step, this.header));
  }

  /** Now a crash loses nothing. */
  flush(): void {
    this.#writer.flush();
  }

  close(): TraceIdentity {
    return this.#writer.close();
  }

  /** Without `close`: what is buffered is written, but no end mark. */
  [Symbol.dispose](): void {
    this.#writer[Symbol.dispose]();
  }
}

/**
 * @example
 * using reader = RoutingTraceReader.open('run.routing');
 * const steps = reader.steps();
 * for (const { npu, spans, experts, weights } of steps) …
 * if (steps.damage) console.log(steps.damage.message);
 */
export class RoutingTraceReader implements Disposable {
  readonly header: RoutingHeader;
  readonly path: string;
  readonly file_bytes: number;
  readonly #reader: TraceReader;

  private constructor(header: RoutingHeader, reader: TraceReader) {
    this.header = header;
    this.path = reader.path;
    this.file_bytes = reader.file_bytes;
    this.#reader = reader;
  }

  /** @throws `invalid_trace` when there is no such file, or it is no routing trace */
  static open(path: string): RoutingTraceReader {
    const reader = TraceReader.open(path);
    const result = routingHeaderSchema.safeParse(reader.header, inWords);
    if (result.success) return new RoutingTraceReader(result.data, reader);
    reader[Symbol.dispose]();
    const { path: field, message } = firstIssue(result.error.issues);
    throw new MinipodError('invalid_trace', `${path}: is no routing trace: ${['header', ...field].join('.')}: ${message}`);
  }

  /** Read as they are iterated; iterated again, from the first. */
  steps(): RoutingSteps {
    return new RoutingSteps(this.#reader, this.header);
  }

  [Symbol.dispose](): void {
    this.#reader[Symbol.dispose]();
  }
}

export class RoutingSteps implements Iterable<RoutedStep> {
  /** Why the iteration ended before the end mark; null while it goes on, and when it came to a sound end. */
  damage: TraceDamage | null = null;
  /** Why recording ended before the run did; null: it did not. */
  stopped: string | null = null;
  readonly #reader: TraceReader;
  readonly #header: RoutingHeader;

  constructor(reader: TraceReader, header: RoutingHeader) {
    this.#reader = reader;
    this.#header = header;
  }

  *[Symbol.iterator](): Generator<RoutedStep, void, undefined> {
    this.damage = null;
    this.stopped = null;
    const records = this.#reader.records();
    for (const { index, bytes } of records) {
      if (!isRouted(bytes)) {
        const { kind, reason } = decodeRecord(bytes) as { kind?: unknown; reason?: unknown };
        if (kind === 'stopped') this.stopped = String(reason);
        continue;
      }
      const step = readRouted(bytes, this.#header);
      if (typeof step === 'string') throw new MinipodError('invalid_trace', `${this.#reader.path}: record ${index}: ${step}`);
      yield step;
    }
    this.damage = records.damage;
  }
}
