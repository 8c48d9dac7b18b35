/** A program of point-to-point-threads.test.ts: this thread's ends of random messages between all dies, and what came of them. */
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { type DiesOfThread, runOnThread } from './rig-threads.ts';
import { isWhole, startReceive, startSend, type Transfer, taker } from './transfers.ts';

export type TrafficArgs = { readonly rounds: readonly (readonly Transfer[])[]; readonly timeout_ms: number };
export type TrafficResult = {
  readonly errors: readonly string[];
  readonly torn: number;
  readonly delivered: number;
  /** Leases that are still out. */
  readonly out: number;
};

export default function traffic(thread: DiesOfThread, { rounds, timeout_ms }: TrafficArgs): TrafficResult {
  const { endpoints, space, domain } = thread;
  const ends = endpoints.map((endpoint) => (endpoint === undefined ? undefined : new PointToPoint(endpoint)));
  const errors: string[] = [];
  let torn = 0;
  let delivered = 0;
  for (const transfers of rounds) {
    const sends = transfers.flatMap((transfer) => {
      const end = ends[transfer.from];
      return end === undefined ? [] : [startSend(end, domain, transfer, timeout_ms)];
    });
    const receives = transfers.flatMap((transfer) => {
      const end = ends[transfer.to];
      return end === undefined ? [] : [{ transfer, receive: startReceive(end, domain, transfer, timeout_ms) }];
    });
    const takers = receives.map(({ transfer, receive }) =>
      taker(receive, () => {
        if (!isWhole(space, transfer, receive.lease?.address ?? transfer.target)) torn++;
        delivered++;
      }),
    );
    for (const end of runOnThread(thread, [...sends, ...takers])) if (end.state === 'failed') errors.push(end.error.message);
  }
  return { errors, torn, delivered, out: ends.reduce((sum, end) => sum + (end?.counters.leases_lent ?? 0) + (end?.counters.leases_borrowed ?? 0), 0) };
}
