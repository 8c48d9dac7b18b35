/**
 * A worker is killed while KV is on its way from prefill to decode, on a virtual clock: nobody who asked notices, whichever worker and whichever moment it is.
 *
 *   node examples/chaos.ts
 *
 * Where minipod is installed, import from 'minipod/chaos'. In a test: expect(report.violations).toEqual([]).
 */
import { chaos } from '../src/chaos/index.ts';

const report = await chaos.run({
  seed: 7,
  pod: { topology: 'pd:prefill=1,decode=1', workers: 2 },
  calls: [
    { key: 1, prompt_tokens: 40, max_tokens: 8 },
    { key: 2, prompt_tokens: 17, max_tokens: 5, n: 2 },
  ],
  faults: [{ kind: 'worker-lost', worker: 1, at: { phase: 'kv-transfer' } }],
});
for (const { kind, phase, effect } of report.faults) console.log(`${kind} at ${phase}: ${effect} calls were open`);
for (const [call, { code, tokens }] of report.calls.entries()) console.log(`call ${call} ${code} with ${tokens} tokens`);
console.log(`${report.verdict}, in ${report.virtual_ms.toFixed(1)} ms of virtual time and ${report.events} events`);
