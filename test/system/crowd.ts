/**
 * The crowd, in full: `node test/system/crowd.ts [clients] [flags of serve]`, or the same with `deno run -A`. 1,000 streaming clients come at once to a server of
 * its own process, a tenth of them does not read for as long as it can, a tenth hangs up.
 */
import { execFileSync, spawn } from 'node:child_process';
import { once } from 'node:events';
import { fileURLToPath } from 'node:url';
import { crowd, talesAlone } from './crowd-clients.ts';

const MAX_TOKENS = 16;
const HEAVY_TOKENS = 400;
/** What the server may take more than before the crowd: what garbage takes until it is collected, and fifty kilobytes a client. */
const GARBAGE_BYTES_MAX = 192 * 2 ** 20;
const BYTES_PER_CLIENT_MAX = 50 * 1_024;
const clients = Number(process.argv[2] ?? 1_000);

const entry = 'Deno' in globalThis ? ['run', '-A', 'src/cli/main.ts'] : ['bin/minipod.js'];
const given = process.argv.slice(3);
const flags = ['serve', '--port', '0', '--json', ...(given.length > 0 ? given : ['--npus', '2', '--workers', '2'])];
const server = spawn(process.execPath, [...entry, ...flags], { cwd: fileURLToPath(new URL('../..', import.meta.url)), stdio: ['ignore', 'pipe', 'inherit'] });
const [first] = (await once(server.stdout, 'data')) as [Buffer];
const { url, port } = JSON.parse(first.toString()) as { url: string; port: number };

const rss = (): number => Number(execFileSync('ps', ['-o', 'rss=', '-p', String(server.pid)]).toString()) * 1_024;
const MIB = 2 ** 20;

/** The sum over all engines. */
async function figure(name: string): Promise<number> {
  const text = await (await fetch(`${url}/metrics`)).text();
  return [...text.matchAll(new RegExp(`^${name}(?:\\{.*\\})? (\\S+)$`, 'gm'))].reduce((sum, [, value]) => sum + Number(value), 0);
}

const tales = await talesAlone(port, MAX_TOKENS);
const heavy = Math.ceil(clients / 200);
// The same with everybody reading: what connections and KV blocks take is then taken, and what comes on top is what is kept for those who do not read.
await crowd(port, tales, { clients, stalled: 0, aborting: 0, heavy, max_tokens: MAX_TOKENS, heavy_tokens: HEAVY_TOKENS });
const before = rss();
let most = before;
const sampler = setInterval(() => {
  most = Math.max(most, rss());
}, 500);
const tenth = Math.floor(clients / 10);
const report = await crowd(port, tales, { clients, stalled: tenth, aborting: tenth, heavy, max_tokens: MAX_TOKENS, heavy_tokens: HEAVY_TOKENS });
clearInterval(sampler);
let left = Number.NaN;
for (let waited_ms = 0; waited_ms < 10_000 && left !== 0; waited_ms += 100) {
  left = (await figure('vllm:num_requests_running')) + (await figure('vllm:num_requests_waiting')) + (await figure('vllm:kv_cache_usage_perc'));
  await new Promise((resolve) => setTimeout(resolve, 100));
}
const aborts = await figure('vllm:request_success_total\\{.*finished_reason="abort".*\\}');
// Not by the handle's own kill: Deno then reports the signal instead of the exit code that the process gave.
process.kill(server.pid as number, 'SIGTERM');
const [code] = (await once(server, 'exit')) as [number | null];

const { wrong, quick, stalled, aborted, quick_ms, all_ms, first_ms, heavy_bytes } = report;
console.log(
  `${clients} clients: ${quick} read to the end in ${(quick_ms / 1e3).toFixed(1)} s, their first token after ${first_ms.map((ms) => `${(ms / 1e3).toFixed(1)} s`).join(' (median), ')} (last)`,
);
console.log(
  `${stalled} read nothing until then, ${heavy} of them up to ${(heavy_bytes / MIB).toFixed(1)} MiB; all had all after ${(all_ms / 1e3).toFixed(1)} s`,
);
console.log(`${aborted} hung up; the server counts ${aborts} requests aborted`);
console.log(`the server's memory: ${(before / MIB).toFixed(0)} MiB before, ${((most - before) / MIB).toFixed(0)} MiB more at most`);
console.log(`wrong: ${wrong.length}; left in the pod: ${left}; the server ended with ${code}`);
for (const line of wrong.slice(0, 5)) console.log(line);
process.exitCode = wrong.length === 0 && left === 0 && code === 0 && most - before < GARBAGE_BYTES_MAX + clients * BYTES_PER_CLIENT_MAX ? 0 : 1;
