/** Leases of KV on a virtual clock: when one ends there, and what of a pull it can still meet (docs/distflow.md). */
import { expect, it } from 'vitest';
import { createPod, type PodOptions } from '../../src/index.ts';
import type { VirtualPod } from '../../src/pod/virtual-pod.ts';
import { expectNothingLeft } from './pods.ts';

const CALLS = 12;
const LEASE_MS = 20;
/** A transfer of a few blocks takes seconds. */
const SLOW_LINK = { topology: 'pd:prefill=2,decode=1', kv_blocks: 16, link_bytes_per_s: 1e3 } as const;
/** A step that took microseconds goes on for tens of milliseconds, its layers come one by one meanwhile. */
const SLOWNESS = 10_000;

type Run = { readonly tokens: unknown; readonly expired: number; readonly done: number; readonly failed: Record<'refused' | 'expired', number> };

async function runOf(options: PodOptions, slowness = 1): Promise<Run> {
  await using pod = await createPod({ clock: 'virtual', kernels: 'hash', seed: 1, ...options });
  (pod as VirtualPod).control.host.disturbance = { meet: () => {}, transmit: () => null, timer_ms: (_, ms) => ms, step_ns: (_, ns) => slowness * ns };
  const completions = await Promise.all(
    Array.from({ length: CALLS }, (_, call) =>
      pod.complete(
        Array.from({ length: 40 }, (_, index) => 5 + call * 13 + index * 7),
        { max_tokens: 8, ignore_eos: true },
      ),
    ),
  );
  await expectNothingLeft(pod);
  const { dp_groups, kv_links } = await pod.stats();
  const sum = (values: readonly number[]): number => values.reduce((all, value) => all + value, 0);
  return {
    tokens: completions.map(({ choices }) => choices[0]?.token_ids),
    expired: sum(dp_groups.map(({ kv_leases_expired }) => kv_leases_expired)),
    done: sum(kv_links.map((link) => link.done)),
    failed: {
      refused: sum(kv_links.map(({ failed }) => failed['refused'] ?? 0)),
      expired: sum(kv_links.map(({ failed }) => failed['expired'] ?? 0)),
    },
  };
}

it('one that nobody has come for expires, one whose copy has begun counts as pulled, however slow the link', async () => {
  const patient = await runOf(SLOW_LINK);
  const hasty = await runOf({ ...SLOW_LINK, kv_lease_ms: LEASE_MS });
  expect(patient).toMatchObject({ expired: 0, done: CALLS });
  // Whoever waited for room came too late, and computed it.
  expect(hasty.expired).toBeGreaterThan(0);
  expect(hasty.done).toBeGreaterThan(0);
  expect(hasty).toMatchObject({ tokens: patient.tokens, done: CALLS - hasty.expired, failed: { refused: hasty.expired, expired: 0 } });
});

it('one that is pulled by layer is fenced between two layers, and nothing is left of it', async () => {
  const options: PodOptions = { topology: 'pd:prefill=1,decode=1', kv_transfer: 'layer' };
  const patient = await runOf(options, SLOWNESS);
  const hasty = await runOf({ ...options, kv_lease_ms: LEASE_MS }, SLOWNESS);
  expect(patient).toMatchObject({ expired: 0, done: CALLS });
  expect(hasty.failed.expired).toBeGreaterThan(0);
  expect(hasty).toMatchObject({ tokens: patient.tokens, expired: hasty.failed.expired + hasty.failed.refused });
});
