/**
 * What the thread of a worker that was declared dead may write while it has not stopped: its NPUs' KV blocks, what they left for peers, and their fields in
 * peers' metadata (xccl/areas.ts), under the epoch that they had. Here it is rubbish, so that whoever believes any of it computes something else.
 * @module
 */
import { offsetOf } from '../fabric/address.ts';
import type { VirtualControl } from '../platform/virtual-control.ts';
import type { SeededRandom } from '../runtime/seeded-random.ts';
import { CHANNEL, FIELD_BYTES, FIELD_WORD } from '../xccl/areas.ts';

type Memory = Pick<VirtualControl, 'plan' | 'space' | 'directory'>;
type Fill = (address: number, bytes: number) => void;

const ANY_WORD = 2 ** 31;
/** Words of rubbish that are drawn; what is longer has them over and over. */
const PAGE = 1_024;
/** Its epochs it cannot change. */
const PAYLOAD = [FIELD_WORD.event, FIELD_WORD.a, FIELD_WORD.b, FIELD_WORD.c, FIELD_WORD.d, FIELD_WORD.e];

export function writeOn({ plan, space, directory }: Memory, worker: number, random: SeededRandom): void {
  const page = Int32Array.from({ length: PAGE }, () => random.below(ANY_WORD));
  const fill: Fill = (address, bytes) => {
    const words = space.wordsOf(address);
    const first = offsetOf(address) >>> 2;
    const count = bytes >>> 2;
    // Not the same words everywhere: what one place has that another should have is rubbish as well.
    const from = random.below(PAGE / 2);
    for (let word = 0; word < count; word += PAGE - from) words.set(page.subarray(from, from + Math.min(PAGE - from, count - word)), first + word);
  };
  for (const npu of directory.npusOfWorker(worker)) {
    const layout = plan.layouts[npu] as (typeof plan.layouts)[number];
    const { dispatch, dispatch_bytes, gather, gather_bytes, reply, reply_bytes } = layout.areas;
    fill(dispatch, dispatch_bytes);
    fill(gather, gather_bytes);
    fill(reply, reply_bytes);
    if (layout.kind === 'attention') fill(layout.kv.address, layout.kv.blocks * layout.kv.block_bytes);
    const die = directory.dieOfNpu(npu);
    for (const peer of plan.layouts) if (peer !== layout) fillFields(peer.areas.metadata + die * peer.areas.peer_bytes, fill);
  }
}

function fillFields(peer: number, fill: Fill): void {
  for (const channel of Object.values(CHANNEL)) for (const word of PAYLOAD) fill(peer + channel * FIELD_BYTES + word * 4, 4);
}
