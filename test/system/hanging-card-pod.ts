/** A pod on this thread whose network card hangs in the midst of its work. Where a thread that hangs cannot be stopped the pod fails, and this thread with it. @module */
import { openRig } from './rig.ts';

const rig = await openRig(
  { topology: 'pd:prefill=1,decode=1', workers: 2, kv_fabric: 'tcp' },
  { card_entry: new URL('hanging-card.ts', import.meta.url), card_deadline_ms: 500 },
);
for (let seed = 0; ; seed++) await rig.pod.complete([1, 86, 1461, 613], { max_tokens: 4, seed, ignore_eos: true });
