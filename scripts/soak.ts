/**
 * The long soak: 64 streaming clients, embedded and then over HTTP, for so many seconds each (30). Exits with 1 if texts were mixed up or memory grows.
 *
 * @example
 * node scripts/soak.ts 600
 * deno run -A scripts/soak.ts
 * @module
 */
import { serve } from '../src/api/index.ts';
import { createPod } from '../src/index.ts';
import { askPod, askServer, growth, soak, talesAlone } from '../test/system/clients.ts';

const CLIENTS = 64;
/** After the first third memory has levelled off: what still grows is a leak. */
const GROWTH_BYTES_MAX = 96 * 2 ** 20;
const seconds = Number(process.argv[2] ?? 30);

await using pod = await createPod({ npus: 2, workers: 2 });
const server = await serve({ pod, port: 0 });
const alone = await talesAlone(askPod(pod));
let failed = false;
for (const [name, ask] of [
  ['embedded', askPod(pod)],
  ['HTTP', askServer(server.url)],
] as const) {
  const { streams, mixed, rss_bytes } = await soak(ask, alone, CLIENTS, seconds * 1_000);
  console.log(
    `${name}: ${streams} streams by ${CLIENTS} clients in ${seconds} s, ${mixed.length} mixed up, memory ${(growth(rss_bytes) / 2 ** 20).toFixed(1)} MiB more at the end`,
  );
  for (const line of mixed.slice(0, 5)) console.log(line);
  failed ||= mixed.length > 0 || growth(rss_bytes) > GROWTH_BYTES_MAX;
}
const { unexpected_messages, npus } = await pod.stats();
console.log(
  `unexpected messages: ${unexpected_messages.join(', ') || 'none'}; KV blocks held: ${npus.reduce((sum, { kv_blocks_used }) => sum + kv_blocks_used, 0)}`,
);
await server.close();
process.exitCode = failed || unexpected_messages.length > 0 ? 1 : 0;
