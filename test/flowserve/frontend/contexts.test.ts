/** Contexts: each salt has its own, what is over is forgotten and told of, and no id is given twice. */
import { describe, expect, it } from 'vitest';
import { Contexts } from '../../../src/flowserve/frontend/contexts.ts';
import type { CreateContextCall } from '../../../src/protocol/caller.ts';
import { forgetContext, keepContext } from '../../../src/protocol/constructors.ts';
import type { DpGroupMessage } from '../../../src/protocol/messages.ts';

function makeContexts() {
  const told: DpGroupMessage[] = [];
  const clock = { now_ms: 1_000 };
  const contexts = new Contexts({ tokensOf: () => [4, 5, 6], now_ms: () => clock.now_ms, tellGroups: (message) => told.push(message) });
  const create = (id: string, cache_salt = '', expires_ms = -1) =>
    contexts.create({ id, cache_salt, expires_ms, add_special_tokens: false, prompt: { kind: 'tokens', tokens: [4, 5, 6] } } as unknown as CreateContextCall);
  return { contexts, create, told, clock };
}

describe('contexts', () => {
  it('should be kept without an end where none is given, and until their time is over', () => {
    const { contexts, create, told, clock } = makeContexts();
    expect(create('for-ever')).toEqual({ id: 'for-ever', token_count: 3, created_ms: 1_000, over_ms: -1 });
    expect(create('soon', '', 50).over_ms).toBe(1_050);
    expect(create('now', '', 0).over_ms).toBe(1_000);
    expect(contexts.list('').map(({ id }) => id)).toEqual(['for-ever', 'soon']);
    clock.now_ms = 1_049;
    expect(contexts.get('soon', '').tokens).toEqual([4, 5, 6]);
    clock.now_ms = 1_050;
    expect(() => contexts.get('soon', '')).toThrow(/no context "soon"/);
    clock.now_ms = 1e12;
    expect(contexts.list('').map(({ id }) => id)).toEqual(['for-ever']);
    expect(told.slice(3)).toEqual([forgetContext('now'), forgetContext('soon')]);
  });

  it('should be forgotten one after the other, by whoever looks, and not before', () => {
    const { contexts, create, told, clock } = makeContexts();
    for (const [id, expires_ms] of [
      ['third', 30],
      ['first', 10],
      ['never', -1],
      ['second', 20],
    ] as const)
      create(id, '', expires_ms);
    contexts.delete('third', '');
    create('third', '', 40);
    told.length = 0;
    for (let ms = 0; ms <= 40; ms += 5) {
      clock.now_ms = 1_000 + ms;
      contexts.forgetOver();
      const over = [
        [10, 'first'],
        [20, 'second'],
        [40, 'third'],
      ].filter(([end]) => Number(end) <= ms);
      expect(told).toEqual(over.map(([, id]) => forgetContext(String(id))));
    }
  });

  it('should be each salt’s own', () => {
    const { contexts, create, told } = makeContexts();
    create('mine', 'a');
    create('mine', 'b');
    expect(told).toEqual([keepContext('mine@a', 'a', [4, 5, 6]), keepContext('mine@b', 'b', [4, 5, 6])]);
    expect([contexts.list('a').length, contexts.list('').length]).toEqual([1, 0]);
    expect(() => create('mine', 'a')).toThrow(/a context 'mine' already/);
    expect([contexts.delete('mine', ''), contexts.delete('mine@a', '')]).toEqual([false, false]);
    expect([contexts.delete('mine', 'a'), contexts.delete('mine', 'a')]).toEqual([true, false]);
    expect(contexts.get('mine', 'b').id).toBe('mine');
  });

  it('should be given ids that nobody has', () => {
    const { create } = makeContexts();
    create('ctx-1');
    expect([create('').id, create('', 'a').id, create('').id]).toEqual(['ctx-2', 'ctx-3', 'ctx-4']);
  });

  it('should be no more than there is room for', () => {
    const { contexts, create } = makeContexts();
    for (let made = 0; made < 1_024; made++) create('');
    expect(() => create('')).toThrow(/1024 contexts are kept/);
    contexts.delete('ctx-7', '');
    expect(create('').token_count).toBe(3);
  });
});
