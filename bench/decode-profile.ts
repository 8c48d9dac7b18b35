/**
 * Where every microsecond of a decode step goes: V8's profiler on the worker thread, samples given to the room of the house that spent them.
 * WASM frames count for the forward-pass method that called them: so decode runs in eager mode here, where there is one.
 * @module
 */
import { execFileSync } from 'node:child_process';
import { mkdtempSync, readdirSync, readFileSync, rmSync } from 'node:fs';
import { tmpdir } from 'node:os';
import { join } from 'node:path';
import { fileURLToPath } from 'node:url';
import { machine, printTable, writeResults } from './harness.ts';

type Frame = { readonly functionName: string; readonly url: string };
type Node = { readonly id: number; readonly callFrame: Frame; readonly children?: readonly number[] };
type Profile = { readonly nodes: readonly Node[]; readonly samples: readonly number[]; readonly timeDeltas: readonly number[] };

/** First match from the sampled frame outwards; so a kernel counts for what asked for it. */
const ROOMS: readonly { readonly room: string; readonly file: RegExp; readonly method?: RegExp }[] = [
  { room: 'kernels: attention', file: /flowserve\/forward/, method: /^(#mla|#gqa|attention)$/ },
  { room: 'kernels: experts and MLP', file: /flowserve\/forward/, method: /^(mlp|dense|sharedExpert)$/ },
  { room: 'kernels: gate, norm, combine', file: /flowserve\/forward/, method: /^(gate|postNorm|combine|embed)$/ },
  { room: 'kernels: head', file: /flowserve\/forward/, method: /^head$/ },
  { room: 'expert batches', file: /flowserve\/expert-batches/ },
  { room: 'sampling', file: /flowserve\/(sampler|readout)/ },
  { room: 'step program', file: /flowserve\/(step-program|step-parts)/ },
  { room: 'actors: policies', file: /actors\/policies/ },
  { room: 'actors: machines', file: /(runtime\/actor-host|actors\/|xstate)/ },
  { room: 'messages: encoding', file: /(runtime\/message-port|protocol\/|msgpackr)/ },
  { room: 'messages: rings', file: /(fabric\/(ring|links)|xccl\/)/ },
  { room: 'waiting: asleep, or waking others', file: /(fabric\/control-page|runtime\/idle-ladder)/ },
  { room: 'worker loop', file: /flowserve\/npu-worker/ },
];

/** NPUs/workers/requests; others can be given as arguments. */
const asked = process.argv.length > 2 ? process.argv.slice(2) : ['1/1/1', '1/1/16', '8/1/1', '2/2/16', '8/2/16'];
const configurations = asked.map((text) => {
  const [npus = 1, workers = 1, requests = 1] = text.split('/').map(Number);
  return { npus, workers, requests };
});

function roomsOf({ nodes, samples, timeDeltas }: Profile): Map<string, number> {
  const byId = new Map(nodes.map((node) => [node.id, node]));
  const parents = new Map(nodes.flatMap((node) => (node.children ?? []).map((child) => [child, node.id] as const)));
  const roomOf = (id: number | undefined): string => {
    for (let at = id; at !== undefined; at = parents.get(at)) {
      const frame = byId.get(at)?.callFrame;
      const found = ROOMS.find(({ file, method }) => frame !== undefined && file.test(frame.url) && (method?.test(frame.functionName) ?? true));
      if (found !== undefined) return found.room;
      if (frame?.functionName === '(garbage collector)') return 'garbage collection';
    }
    return 'runtime and start';
  };
  const known = new Map(nodes.map(({ id }) => [id, roomOf(id)]));
  const rooms = new Map<string, number>();
  samples.forEach((sample, index) => {
    const room = known.get(sample) ?? 'runtime and start';
    rooms.set(room, (rooms.get(room) ?? 0) + (timeDeltas[index] ?? 0));
  });
  return rooms;
}

const results = configurations.map(({ npus, workers, requests }) => {
  const folder = mkdtempSync(join(tmpdir(), 'minipod-profile-'));
  const load = fileURLToPath(new URL('./decode-load.ts', import.meta.url));
  const printed = execFileSync(
    process.execPath,
    ['--cpu-prof', '--cpu-prof-interval=100', `--cpu-prof-dir=${folder}`, load, `${npus}`, `${workers}`, `${requests}`, '512', 'eager'],
    { encoding: 'utf8' },
  );
  const { milliseconds, steps, allSteps } = JSON.parse(printed) as { milliseconds: number; steps: number; allSteps: number };
  // Thread 0 is the caller, 1 the control thread, 2 the first worker.
  const file = readdirSync(folder).find((name) => /\.2\.\d+\.cpuprofile$/.test(name));
  if (file === undefined) throw new Error(`no profile of the first worker in ${folder}`);
  const rooms = roomsOf(JSON.parse(readFileSync(join(folder, file), 'utf8')) as Profile);
  rmSync(folder, { recursive: true });
  const perStep = Object.fromEntries([...rooms].map(([room, microseconds]) => [room, microseconds / allSteps]));
  return { npus, workers, requests, step_us: (milliseconds * 1000) / steps, perStep };
});

const names = [...ROOMS.map(({ room }) => room), 'garbage collection', 'runtime and start'];
printTable(
  `One decode step on the first worker, µs (V8's profiler at 100 µs, which itself costs some; ${machine()['cpu']})`,
  ['where', ...results.map(({ npus, workers, requests }) => `${npus} NPU / ${workers} worker / ${requests} req`)],
  [
    ...names.map((room) => [room, ...results.map(({ perStep }) => (perStep[room] ?? 0).toFixed(1))]),
    ['step, wall clock', ...results.map(({ step_us }) => step_us.toFixed(0))],
  ],
);
writeResults('bench/results/decode-profile.json', results);
