/** Messages for the rig: each with a source, a destination between guard bytes, and a way to see that it came whole. */
import assert from 'node:assert/strict';
import { addressText } from '../../src/fabric/address.ts';
import type { AddressSpace } from '../../src/fabric/address-space.ts';
import { Arena } from '../../src/fabric/arena.ts';
import type { Domain } from '../../src/xccl/domain.ts';
import type { Operation } from '../../src/xccl/operation.ts';
import type { PointToPoint } from '../../src/xccl/point-to-point.ts';
import type { Receive } from '../../src/xccl/receive.ts';
import type { Send } from '../../src/xccl/send.ts';
import { type App, expectedBytes, fillBytes } from './rig.ts';

const GUARD = 64;
const GUARD_BYTE = 0xa5;
export const NEVER_MS = Number.POSITIVE_INFINITY;

export type Way = 'slots' | 'dma' | 'lease';
export type TransferShape = { readonly from: number; readonly to: number; readonly bytes: number; readonly way: Way; readonly borrows: boolean };
export type Transfer = TransferShape & { readonly event: number; readonly seed: number; readonly source: number; readonly target: number };

/** Gives each its places: sources filled, destinations emptied between guards. */
export function placeTransfers(space: AddressSpace, apps: readonly App[], shapes: readonly TransferShape[]): Transfer[] {
  const arenas = apps.map(({ address, bytes }) => new Arena(address, bytes));
  return shapes.map((shape, index) => {
    const source = (arenas[shape.from] as Arena).allocate(shape.bytes, 1);
    const around = (arenas[shape.to] as Arena).allocate(shape.bytes + 2 * GUARD, 1);
    fillBytes(space.bytesAt(source, shape.bytes), index + 1);
    space.bytesAt(around, shape.bytes + 2 * GUARD).fill(GUARD_BYTE);
    return { ...shape, event: index + 1, seed: index + 1, source, target: around + GUARD };
  });
}

export function startSend(p2p: PointToPoint, domain: Domain, { to, event, source, bytes, way }: Transfer, timeout_ms = NEVER_MS): Send {
  const message = { domain, to, event, address: source, bytes, timeout_ms };
  return way === 'lease' ? p2p.lend(message) : p2p.send(message, way);
}

export function startReceive(p2p: PointToPoint, domain: Domain, { from, event, target, bytes, borrows }: Transfer, timeout_ms = NEVER_MS): Receive {
  const message = { domain, from, event, address: target, bytes, timeout_ms };
  return borrows ? p2p.borrow(message) : p2p.receive(message);
}

/** Looks at what came as soon as it is there, and gives back what was lent, so that the lanes of leases do not run out. */
export function taker(receive: Receive, look: () => void): Operation {
  let seen = false;
  return {
    poll: () => {
      const end = receive.poll();
      if (end.state !== 'done' || seen) return end;
      seen = true;
      look();
      return receive.lease?.release() ?? end;
    },
  };
}

/** Whole at the destination, or at the source for what was borrowed in place; what lies around is as it was. */
export function expectDelivered(space: AddressSpace, transfer: Transfer, address = transfer.target): void {
  assert(isWhole(space, transfer, address), `${transfer.bytes} bytes of event ${transfer.event} at ${addressText(address)} differ`);
  expectGuards(space, transfer);
}

export const isWhole = (space: AddressSpace, { bytes, seed }: Transfer, address: number): boolean =>
  Buffer.compare(space.bytesAt(address, bytes), expectedBytes(bytes, seed)) === 0;

export function expectGuards(space: AddressSpace, { target, bytes }: Transfer): void {
  for (const at of [target - GUARD, target + bytes])
    assert(
      space.bytesAt(at, GUARD).every((byte) => byte === GUARD_BYTE),
      `guard at ${addressText(at)}`,
    );
}
