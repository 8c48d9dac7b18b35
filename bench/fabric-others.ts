/**
 * The fabric beside what one would else take for two threads: each with the same message there and back, and as many as it can.
 * @module
 */
import { Worker } from 'node:worker_threads';
import * as Comlink from 'comlink';
import nodeEndpoint from 'comlink/dist/esm/node-adapter.mjs';
import { Piscina } from 'piscina';
import type { EchoRemote } from './fabric-comlink-thread.ts';
import type { Duo } from './fabric-duo.ts';
import { frameRate } from './fabric-messages.ts';
import { digits, medianRatio, type Turn, takeTurns } from './fabric-report.ts';
import { channelTrip_us, streamRate } from './fabric-streams.ts';
import { eventLoopTrip_us, MESSAGE, trip_us } from './fabric-trips.ts';
import { median, printTable } from './harness.ts';

const TRIPS = 500;
const STREAM = 5_000;
const FRAMES = 100_000;
/** Calls that are out at once where an answer is part of the rate. */
const CALLS_AT_ONCE = 64;
const CALLS = 2_560;
const WARM_ROUNDS = 2;

type Echo = (message: object) => Promise<unknown>;
type Other = { readonly echo: Echo; readonly close: () => Promise<unknown> };

function comlink(): Other {
  const worker = new Worker(new URL('./fabric-comlink-thread.ts', import.meta.url));
  const remote = Comlink.wrap<EchoRemote>(nodeEndpoint(worker));
  return { echo: (message) => remote.echo(message), close: () => worker.terminate() };
}

function piscina(): Other {
  const pool = new Piscina({ filename: new URL('./fabric-piscina-task.ts', import.meta.url).href, minThreads: 1, maxThreads: 1 });
  return { echo: (message) => pool.run(message), close: () => pool.destroy() };
}

async function callTrip_us(echo: Echo): Promise<number> {
  const start = performance.now();
  for (let trip = 0; trip < TRIPS; trip++) await echo(MESSAGE);
  return ((performance.now() - start) / TRIPS) * 1000;
}

/** Calls answered, M/s. */
async function callRate(echo: Echo): Promise<number> {
  const start = performance.now();
  for (let called = 0; called < CALLS; called += CALLS_AT_ONCE) await Promise.all(Array.from({ length: CALLS_AT_ONCE }, () => echo(MESSAGE)));
  return CALLS / (performance.now() - start) / 1000;
}

type Contestant = { readonly trip: Turn; readonly rate: Turn | null; readonly close: () => Promise<unknown> };

const called = ({ echo, close }: Other): Contestant => ({ trip: () => callTrip_us(echo), rate: () => callRate(echo), close });
const nothing = async (): Promise<void> => {};

/** Null: this runtime does not run it, which is said. */
async function opened(name: string, open: () => Other): Promise<Contestant | null> {
  try {
    const other = open();
    await other.echo(MESSAGE);
    return called(other);
  } catch (error) {
    console.log(`${name} does not run here: ${error instanceof Error ? error.message : error}`);
    return null;
  }
}

export async function measureOthers(duo: Duo): Promise<unknown> {
  const framed = async (): Promise<number> => (await frameRate(duo, 'takeFrames', [MESSAGE, MESSAGE], FRAMES)).rate;
  const channel = (kind: 'MessageChannel' | 'BroadcastChannel'): Contestant => ({
    trip: () => channelTrip_us(duo, MESSAGE, TRIPS, kind),
    rate: () => streamRate(duo, () => MESSAGE, STREAM, kind),
    close: nothing,
  });
  const all: Readonly<Record<string, Contestant | null>> = {
    'fabric, spinning': { trip: () => trip_us(duo, 'messages, spinning'), rate: framed, close: nothing },
    'fabric, asleep': { trip: () => trip_us(duo, 'messages, asleep'), rate: null, close: nothing },
    'fabric, in event loops': { trip: () => eventLoopTrip_us(duo, TRIPS), rate: null, close: nothing },
    MessageChannel: channel('MessageChannel'),
    BroadcastChannel: channel('BroadcastChannel'),
    'Comlink call': await opened('Comlink', comlink),
    'Piscina task': await opened('Piscina', piscina),
  };
  const here = Object.entries(all).filter((entry): entry is [string, Contestant] => entry[1] !== null);
  const turns: Record<string, Turn> = {};
  for (const [name, { trip, rate }] of here) {
    turns[`trip ${name}`] = trip;
    if (rate !== null) turns[`rate ${name}`] = rate;
  }
  const came = await takeTurns(turns, WARM_ROUNDS);
  const of = (name: string): number[] => came[name] ?? [];
  const rows = here.map(([name, { rate }]) => ({
    name,
    trip_us: median(of(`trip ${name}`)),
    tripOfFabric: medianRatio(of(`trip ${name}`), of('trip fabric, asleep')),
    rate_M_s: rate === null ? null : median(of(`rate ${name}`)),
    fabricOfRate: rate === null ? null : medianRatio(of('rate fabric, spinning'), of(`rate ${name}`)),
  }));
  for (const [, { close }] of here) await close();
  printTable(
    `The same message of two records there and back, and as many as there can be (calls: ${CALLS_AT_ONCE} at once, answered; the others one way)`,
    ['', 'round trip, µs', 'of the fabric asleep', 'rate, M/s', 'fabric is faster by'],
    rows.map((row) => [row.name, digits(row.trip_us), digits(row.tripOfFabric), digits(row.rate_M_s ?? Number.NaN), digits(row.fabricOfRate ?? Number.NaN)]),
  );
  return rows;
}
