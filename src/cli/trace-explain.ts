/**
 * `minipod trace explain`: what became of a request and where its time went, or which requests were the slowest.
 * @module
 */
import type { Command } from 'commander';
import { MinipodError } from '../index.ts';
import { address } from '../protocol/address.ts';
import { callOf } from '../protocol/request-ids.ts';
import { actsOf } from '../trace/acts.ts';
import { inCausalOrder } from '../trace/causal-order.ts';
import { parseRunHeader } from '../trace/run-header.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { lifeLines, slowestLines } from '../trace/views/life-text.ts';
import { isCalled, type RequestLife } from '../trace/views/request-life.ts';
import { RequestLives } from '../trace/views/request-lives.ts';
import { print, printJson } from './output.ts';
import { positive, traceCommand } from './trace-arguments.ts';
import { noteEnd } from './trace-end.ts';
import { TraceProgress } from './trace-progress.ts';
import { UsageError } from './usage-error.ts';

const SLOWEST_DEFAULT = 10;

type ExplainFlags = { readonly slowest?: number | true; readonly steps?: true; readonly json?: true };

type SetExitCode = (code: number) => void;

export function addExplainCommand(trace: Command, setExitCode: SetExitCode): void {
  const summary = 'Tells the life of a request and where its time went, or lists the slowest requests.';
  traceCommand(trace, 'explain', summary)
    .argument('[request]', 'such as request/7')
    .option('--slowest [N]', `list the N slowest requests, slowest first (default: ${SLOWEST_DEFAULT})`, positive)
    .option('--steps', 'each decode step in a line of its own, also those that are alike')
    .option('--json', 'print one JSON object, or with --slowest an array')
    .addHelpText('after', EXAMPLES)
    .action((file: string, request: string | undefined, flags: ExplainFlags) => explain(file, request, flags, setExitCode));
}

async function explain(file: string, request: string | undefined, { slowest, steps, json }: ExplainFlags, setExitCode: SetExitCode): Promise<void> {
  if ((request === undefined) === (slowest === undefined)) throw new UsageError('explain: name a request, such as request/7, or ask for --slowest');
  if (request === undefined) {
    const lives = await slowestLives(file, typeof slowest === 'number' ? slowest : SLOWEST_DEFAULT, setExitCode);
    await (json ? printJson(lives) : print(`${slowestLines(lives).join('\n')}\n`));
    return;
  }
  const life = await lifeOf(file, requestId(request), setExitCode);
  await (json ? printJson(life) : print(`${lifeLines(life, !steps).join('\n')}\n`));
}

/** 7 of `request/7`, or of `7`. */
export function requestId(text: string): number {
  const [, digits] = /^(?:request\/)?(\d{1,9})$/.exec(text) ?? [];
  if (digits === undefined) throw new UsageError(`${text} is no request; they are called request/1, request/2 …`);
  return Number(digits);
}

/** Reads no further than to its end. */
async function lifeOf(file: string, id: number, setExitCode: SetExitCode): Promise<RequestLife> {
  let [first, last] = [Number.POSITIVE_INFINITY, 0];
  let found: RequestLife | undefined;
  for await (const life of livesOf(file, (request) => callOf(request) === callOf(id), setExitCode)) {
    const request = Number(life.request.slice('request/'.length));
    first = Math.min(first, request);
    last = Math.max(last, request);
    if (!isCalled(life, address('request', id))) continue;
    found = life;
    break;
  }
  if (found !== undefined) return found;
  const there = last === 0 ? 'it holds none' : `it holds requests from ${first} to ${last}`;
  throw new MinipodError('invalid_request', `request/${id} is not in ${file}; ${there}`, { param: 'request' });
}

async function slowestLives(file: string, count: number, setExitCode: SetExitCode): Promise<RequestLife[]> {
  const slowest: RequestLife[] = [];
  for await (const life of livesOf(file, () => false, setExitCode)) {
    slowest.push(life);
    if (slowest.length > 2 * count) keepSlowest(slowest, count);
  }
  keepSlowest(slowest, count);
  return slowest;
}

function keepSlowest(lives: RequestLife[], count: number): void {
  lives.sort((a, b) => b.total_us - a.total_us || a.received_us - b.received_us);
  lives.splice(count);
}

/** Those that ended, as they end, then those that had not. */
async function* livesOf(file: string, keepsEvents: (request: number) => boolean, setExitCode: SetExitCode): AsyncGenerator<RequestLife> {
  using reader = TraceReader.open(file);
  const { options } = parseRunHeader(reader.header, file);
  const lives = new RequestLives(options, { keepsEvents });
  using progress = new TraceProgress(`reading ${file}`, reader.file_bytes);
  const acts = actsOf(reader);
  let last_us = 0;
  for (const { act, offset } of inCausalOrder(acts)) {
    const waiting = progress.pause(offset);
    if (waiting) await waiting;
    last_us = Math.max(last_us, act.time_us);
    const life = lives.feed(act);
    if (life !== null) yield life;
  }
  noteEnd(file, acts, 'was read', setExitCode);
  yield* lives.unfinished(last_us);
}

const EXAMPLES = `
Examples:
  $ minipod trace explain run.trace --slowest
  $ minipod trace explain run.trace request/7
  $ minipod trace explain run.trace request/7 --json | jq .breakdown_us`;
