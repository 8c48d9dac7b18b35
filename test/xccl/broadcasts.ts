/** A program of broadcast.test.ts: broadcasts from every rank in turn, each looked at where it came. */
import { type BroadcastForm, broadcast } from '../../src/xccl/broadcast.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { expectedBytes, fillBytes } from './rig.ts';
import { type DiesOfThread, runOnThread } from './rig-threads.ts';

export type BroadcastsArgs = { readonly form: BroadcastForm; readonly sizes: readonly number[]; readonly timeout_ms: number };
export type BroadcastsResult = { readonly errors: readonly string[]; readonly torn: number };

export default function broadcasts(thread: DiesOfThread, { form, sizes, timeout_ms }: BroadcastsArgs): BroadcastsResult {
  const { dies, domain, space, apps } = thread;
  const ends = dies.map((die) => ({ die, p2p: new PointToPoint(thread.endpoints[die] as NonNullable<(typeof thread.endpoints)[number]>) }));
  const errors: string[] = [];
  let torn = 0;
  let event = 0;
  for (const bytes of sizes) {
    for (const root of domain.dies) {
      event++;
      const operations = ends.map(({ die, p2p }) => {
        const { address } = apps[die] as { address: number };
        if (die === root) fillBytes(space.bytesAt(address, bytes), event);
        return broadcast(p2p, { domain, root, event, address, bytes, form, timeout_ms });
      });
      for (const end of runOnThread(thread, operations)) if (end.state === 'failed') errors.push(end.error.message);
      for (const { die } of ends) {
        const { address } = apps[die] as { address: number };
        if (Buffer.compare(Buffer.from(space.bytesAt(address, bytes)), expectedBytes(bytes, event)) !== 0) torn++;
      }
    }
  }
  return { errors, torn };
}
