/** Prefixes that a group lends: told of when they can be pulled, held until nobody pulls them, taken back once. */
import { describe, expect, it } from 'vitest';
import { emptyHolding, type Holding } from '../../actors/policies/cache-holding.ts';
import { KvRequests } from '../../actors/policies/kv-requests.ts';
import { PREFIX_LOANS_MAX, PrefixLoans } from '../../actors/policies/prefix-loans.ts';
import type { RelationalTensorCache } from '../../actors/policies/relational-tensor-cache.ts';
import { address } from '../../src/protocol/address.ts';
import { prefixLent, prefixWanted } from '../../src/protocol/constructors.ts';
import type { KvOffer } from '../../src/protocol/messages.ts';
import type { PrefixMessage } from '../../src/protocol/prefix-sharing.ts';

const OFFER = { id: 7 } as unknown as KvOffer;
const wanted = (task: number, known: number): Extract<PrefixMessage, { readonly type: 'PREFIX_WANTED' }> =>
  prefixWanted('dp-group/1', address('task', task), '', [1, 2, 3, 4, 5, 6, 7, 8], known) as Extract<PrefixMessage, { readonly type: 'PREFIX_WANTED' }>;

/** Of a cache that holds the first six of any tokens, in blocks of two. */
function lender() {
  const freed: Holding[] = [];
  const cache = {
    block_size: 2,
    matchByPrefixToken: () => ({ ...emptyHolding('default/'), known: 6, blocks: [30, 31, 32] }),
    free: (holding: Holding) => freed.push(holding),
  } as unknown as RelationalTensorCache;
  const requests = new KvRequests();
  return { loans: new PrefixLoans(cache, requests, 'dp-group/0'), requests, freed };
}

describe('a prefix that another group wants', () => {
  it('should be offered from where that group’s own ends, and told of when it can be pulled', () => {
    const { loans, requests, freed } = lender();
    expect(loans.lend(wanted(1, 2))).toEqual([]);
    expect(requests.take()).toEqual([{ kind: 'offer', id: 1, blocks: [31, 32], step: 0 }]);
    expect([loans.size, loans.has(1), loans.has(2)]).toEqual([1, true, false]);
    expect(loans.offered(1, OFFER)).toEqual([{ to: 'dp-group/1', message: prefixLent('dp-group/0', 'task/1', OFFER) }]);
    loans.end(1, true);
    expect([loans.size, loans.blocks_lent, freed.length]).toEqual([0, 2, 1]);
  });

  it('should be refused where there is no more of it than is known, and nothing held for it', () => {
    const { loans, requests, freed } = lender();
    expect(loans.lend(wanted(1, 6))).toEqual([{ to: 'dp-group/1', message: prefixLent('dp-group/0', 'task/1', null) }]);
    expect([loans.size, freed.length, requests.take()]).toEqual([0, 1, []]);
  });

  it('should be refused where as many are lent as may be', () => {
    const { loans } = lender();
    for (let task = 1; task <= PREFIX_LOANS_MAX; task++) expect(loans.lend(wanted(task, 0))).toEqual([]);
    expect(loans.lend(wanted(99, 0))).toEqual([{ to: 'dp-group/1', message: prefixLent('dp-group/0', 'task/99', null) }]);
  });

  it.each([
    ['nobody wants it any more', (loans: PrefixLoans) => loans.unwant('task/1')],
    ['its time is over', (loans: PrefixLoans) => loans.expire(1)],
    ['its memory failed', (loans: PrefixLoans) => loans.distrust()],
  ])('should be withdrawn once where %s, and not be offered after', (_, end) => {
    const { loans, requests, freed } = lender();
    loans.lend(wanted(1, 2));
    requests.take();
    end(loans);
    end(loans);
    expect(requests.take()).toEqual([{ kind: 'withdraw', id: 1 }]);
    expect(loans.offered(1, OFFER)).toEqual([]);
    // Until it is withdrawn somebody may read it.
    expect([loans.size, freed.length]).toEqual([1, 0]);
    loans.end(1, false);
    expect([loans.size, loans.blocks_lent, freed.length]).toEqual([0, 0, 1]);
    loans.expire(1);
    expect([loans.offered(1, OFFER), requests.take()]).toEqual([[], []]);
  });
});
