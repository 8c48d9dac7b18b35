/** The links of two threads over small segments, driven by one thread of the test in any order that it likes. */
import { ControlPage } from '../../src/fabric/control-page.ts';
import { Links, type LinksOptions, planRings } from '../../src/fabric/links.ts';
import { FRAME_KIND, type FrameAddress } from '../../src/fabric/ring.ts';
import { clearRing } from '../../src/fabric/ring-layout.ts';
import { bareSegments } from './segments.ts';

export const CONTROL_AT = 65_536;

/** Without `slab_bytes` a slab is as large as its ring. */
export function twoThreads(capacity: number, { segments = 1, ...slab }: { readonly slab_bytes?: number; readonly segments?: number } = {}) {
  const sizes = { capacity, ...slab };
  const { rings, bytes } = planRings(
    [
      { from: 0, to: 1, ...sizes },
      { from: 1, to: 0, ...sizes },
    ],
    2 * CONTROL_AT,
  );
  const pages = 2 + Math.ceil(bytes / 65_536);
  const memory = new WebAssembly.Memory({ initial: pages, maximum: pages, shared: true });
  const memories: [WebAssembly.Memory, ...WebAssembly.Memory[]] = [memory, ...bareSegments(segments - 1)];
  const control = new ControlPage(memories, CONTROL_AT);
  const linksOf = (thread: number, options?: LinksOptions): Links => new Links(thread, memory, rings, control, options);
  const resetAll = (): void => {
    for (const ring of rings) clearRing(memory, ring);
  };
  return { memory, memories, rings, control, linksOf, resetAll };
}

export const frame = (source: number): FrameAddress => ({ kind: FRAME_KIND.message, source, destination: 0, roles: 0 });

/** Bytes that tell whose they are and where they were. */
export function payloadOf(seed: number, bytes: number): Uint8Array {
  const payload = new Uint8Array(bytes);
  for (let index = 0, state = 2 * seed + 1; index < bytes; index++) {
    state = (Math.imul(state, 0x915f_77f5) + index) | 0;
    payload[index] = state >>> 24;
  }
  return payload;
}

const PATTERN_BYTES = 65_536;

/** The same for payloads of many MiB: a pattern over and over, shifted by one byte each time. */
export function longPayloadOf(seed: number, bytes: number): Uint8Array {
  const payload = new Uint8Array(bytes);
  const pattern = payloadOf(seed, Math.min(bytes, 2 * PATTERN_BYTES));
  for (let at = 0, shift = 0; at < bytes; at += PATTERN_BYTES, shift = (shift + 1) % PATTERN_BYTES)
    payload.set(pattern.subarray(shift, shift + Math.min(PATTERN_BYTES, bytes - at, pattern.length - shift)), at);
  return payload;
}
