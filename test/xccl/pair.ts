/** Two dies and one message between them. */
import type { Poll } from '../../src/xccl/operation.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { type Dies, makeDies } from './rig.ts';
import { placeTransfers, type Transfer, type TransferShape } from './transfers.ts';

export const SLOT = 256;

export type Pair = Dies & { readonly a: PointToPoint; readonly b: PointToPoint };

export function makePair(segments = 2, app_bytes = 4 * 2 ** 20): Pair {
  const rig = makeDies(2, { segments, sizes: { slot_bytes: SLOT }, app_bytes });
  const [a, b] = rig.endpoints.map((endpoint) => new PointToPoint(endpoint)) as [PointToPoint, PointToPoint];
  return { ...rig, a, b };
}

/** From die 0 to die 1, of five slots and a part, unless it says otherwise. */
export const place = ({ space, apps }: Dies, shape: Partial<TransferShape> = {}): Transfer =>
  placeTransfers(space, apps, [{ from: 0, to: 1, bytes: 5 * SLOT + 7, way: 'slots', borrows: false, ...shape }])[0] as Transfer;

/** `code: message` of a failure, else the state. */
export const errorOf = (end: Poll | undefined): string => (end?.state === 'failed' ? `${end.error.code}: ${end.error.message}` : String(end?.state));
