/** What makes no sense is refused where it is said, by name, before anything is written or waited for. */
import { describe, expect, it } from 'vitest';
import { broadcast } from '../../src/xccl/broadcast.ts';
import { createDomain } from '../../src/xccl/domain.ts';
import { PointToPoint } from '../../src/xccl/point-to-point.ts';
import { errorsOf, makeDies, run } from './rig.ts';

describe('XCCL refuses', () => {
  const dies = makeDies(4);
  const peers = dies.endpoints.map((endpoint) => new PointToPoint(endpoint));
  const at = (die: number): number => dies.apps[die]?.address ?? 0;
  const small = createDomain(dies.space.control, 7, [0, 1]);

  it.each([Number.NaN, 1.5, -1, 2 ** 60])('%s bytes', (bytes) => {
    const message = { domain: dies.domain, event: 1, address: at(0), bytes, timeout_ms: 100 };
    expect(() => peers[0]?.send({ ...message, to: 1 })).toThrow(/^send to a peer: .* is no number of bytes/);
    expect(() => peers[0]?.receive({ ...message, from: 1 })).toThrow(/^receive from a peer: .* is no number of bytes/);
  });

  it.each([Number.NaN, 1.5, -8])('address %s', (address) => {
    expect(() => peers[0]?.send({ domain: dies.domain, to: 1, event: 1, address, bytes: 8, timeout_ms: 100 })).toThrow(/is no address/);
  });

  it('a die that has no rank in the domain', () => {
    const message = { domain: small, to: 1, event: 1, address: at(3), bytes: 8, timeout_ms: 100 };
    expect(() => peers[3]?.send(message)).toThrow('send to rank 1 of domain 7, in which die 3 has no rank itself');
  });

  it('domains of ids and dies that there cannot be, and leaves the control page alone', () => {
    const { control } = dies.space;
    for (const id of [-1, 255, 256, 0.5, Number.NaN]) expect(() => createDomain(control, id, [0, 1])).toThrow(/ids are 0 to 254/);
    for (const members of [[], [0, 0], [-1], [0, 1_024], [0.5]])
      expect(() => createDomain(control, 9, members)).toThrow(/each once, one at least, all from 0 to 1023/);
    expect(control.generationOf(9)).toBe(0);
  });

  it.each(['tree', 'multi-reader'] as const)('a %s broadcast whose ranks do not agree on its bytes', (form) => {
    const operations = peers.map((peer, rank) =>
      broadcast(peer, { domain: dies.domain, root: 0, event: 5, address: at(rank), bytes: rank === 2 ? 300 : 100, form, timeout_ms: 100 }),
    );
    const errors = errorsOf(run(operations));
    expect(errors[2]).toBe('broadcast of event 5 in domain 0: 100 bytes came to rank 2, which expects 300');
    expect(errors[1]).toBeNull();
  });
});
