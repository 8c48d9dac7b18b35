/** How long a worker looks before it sleeps. */
import { describe, expect, it } from 'vitest';
import { GUARD_BYTES } from '../../src/fabric/address.ts';
import { CONTROL_PAGE_BYTES, ControlPage } from '../../src/fabric/control-page.ts';
import { IdleLadder, SPINS_IDLE } from '../../src/runtime/idle-ladder.ts';

const PAGE_BYTES = 65_536;

function makeLadder(): IdleLadder {
  const pages = Math.ceil((GUARD_BYTES + CONTROL_PAGE_BYTES) / PAGE_BYTES);
  return new IdleLadder(new ControlPage(new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true })), 1);
}

/** How often it was looked for work that comes with that look, and whether it was found. */
function looked(comes: number, look: (hasWork: () => boolean) => unknown): { readonly looks: number; readonly found: unknown } {
  let looks = 0;
  const found = look(() => ++looks >= comes);
  return { looks, found };
}

describe('a worker with nothing to do', () => {
  it('should look for an answer that is due many times longer than for mail, and not for ever', () => {
    const ladder = makeLadder();
    const late = 50 * SPINS_IDLE;
    expect(looked(late, (hasWork) => ladder.lookOut(hasWork))).toEqual({ looks: late, found: true });
    const { looks, found } = looked(Number.POSITIVE_INFINITY, (hasWork) => ladder.lookOut(hasWork));
    expect([found, looks > late, looks < 1_000 * SPINS_IDLE]).toEqual([false, true, true]);
    // A last look with the mark set, and it would sleep.
    expect(looked(SPINS_IDLE + 1, (hasWork) => ladder.idle(hasWork, false, 1)).looks).toBe(SPINS_IDLE + 1);
  });
});
