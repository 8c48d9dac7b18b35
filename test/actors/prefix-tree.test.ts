/** The prefix tree by itself, where hashes meet, and the lines of who was unused the longest against plain lists. */
import fc from 'fast-check';
import { describe, expect, it } from 'vitest';
import type { PrefixNode } from '../../actors/policies/prefix-nodes.ts';
import { PrefixTree } from '../../actors/policies/prefix-tree.ts';
import { NO_LINE, UsageOrder } from '../../actors/policies/usage-order.ts';
import { runs } from '../property-runs.ts';

describe('the prefix tree', () => {
  const lowOf = (tree: PrefixTree, node: PrefixNode): number => tree.nameOf(node) % 2 ** 32;

  /** Two prompts of two blocks of a token that have all of their hash in common. */
  function namesakes(): readonly [readonly number[], readonly number[]] {
    const tree = new PrefixTree(1, 1);
    const first = tree.add('', [], [0], 0);
    const seen = new Map<number, readonly number[]>();
    for (let token = 1; ; token++) {
      const parent = tree.add('', [], [token], 0);
      for (const [path, prompt] of [
        [[first], [0, token]],
        [[parent], [token, 0]],
      ] as const) {
        const low = lowOf(tree, tree.add('', path, prompt, 1));
        const other = seen.get(low);
        if (other !== undefined) return [other, prompt];
        seen.set(low, prompt);
      }
    }
  }

  it('takes nobody for another whose hash is the same, and finds and forgets each of them', () => {
    const [one, other] = namesakes();
    const tree = new PrefixTree(1, 2);
    const put = (prompt: readonly number[]): PrefixNode[] => {
      const path = tree.match('', prompt, 2);
      while (path.length < 2) path.push(tree.add('', path, prompt, path.length));
      return path;
    };
    const path = put(one);
    expect(tree.match('', other, 2).length).toBe(one[0] === other[0] ? 1 : 0);
    const second = put(other);
    expect(second[1]).not.toBe(path[1]);
    expect(lowOf(tree, second[1] as PrefixNode)).toBe(lowOf(tree, path[1] as PrefixNode));
    expect([tree.match('', one, 2), tree.match('', other, 2)]).toEqual([path, second]);
    tree.remove(path[1] as PrefixNode);
    expect([tree.match('', one, 2), tree.match('', other, 2)]).toEqual([path.slice(0, 1), second]);
  });

  it('gives other names to the same tokens of another space, and of other numerics', () => {
    const names = [new PrefixTree(2, 2), new PrefixTree(2, 2, 'int8')].flatMap((tree) =>
      ['', 'tenant', '🐢', '🐇'].map((space) => tree.nameOf(tree.add(space, [], [5, 6], 0))),
    );
    expect(new Set(names).size).toBe(8);
    expect(new Set(names.map((name) => name % 2 ** 32)).size).toBe(8);
  });

  it('tells whoever remembers a node that it is gone, though another has its number by then', () => {
    const tree = new PrefixTree(1, 2);
    tree.add('', [], [1], 0);
    const node = tree.add('', [], [2], 0);
    const remembered = tree.nodes.remember(node);
    expect(tree.nodes.remember(node)).toBe(remembered);
    tree.remove(node);
    tree.nodes.pins[node] = 0;
    tree.nodes.giveBack(node);
    expect(tree.add('', [], [3], 0)).toBe(node);
    expect([remembered.isGone, tree.nodes.remember(node).isGone]).toEqual([true, false]);
  });
});

describe('the order of use', () => {
  const LINES = 3;
  const act = fc.record({ act: fc.constantFrom('place', 'first', 'out', 'in'), node: fc.integer({ min: 1, max: 40 }), line: fc.nat(LINES) });

  it('has the one unused the longest at the head of each line, whoever comes, leaves, or steps out for a while', () => {
    fc.assert(
      fc.property(fc.array(act, { maxLength: 300, size: 'max' }), (acts) => {
        const order = new UsageOrder(LINES, 4);
        const lines: number[][] = Array.from({ length: LINES + 1 }, () => []);
        const lineOf = new Map<number, number>();
        const isOut = new Set<number>();
        const leave = (node: number): void => {
          for (const line of lines) if (line.includes(node)) line.splice(line.indexOf(node), 1);
        };
        for (const { act: what, node, line } of acts) {
          const known = lineOf.get(node) ?? NO_LINE;
          if (what === 'out') {
            order.stepOut(node);
            if (known !== NO_LINE) isOut.add(node);
            leave(node);
          } else if (what === 'in') {
            expect(order.stepIn(node)).toBe(isOut.has(node));
            if (isOut.delete(node)) lines[known]?.push(node);
          } else {
            order.place(node, line, what === 'first');
            if (known !== line || isOut.has(node)) {
              leave(node);
              if (line !== NO_LINE) lines[line]?.[what === 'first' ? 'unshift' : 'push'](node);
            }
            isOut.delete(node);
            lineOf.set(node, line);
          }
          for (let each = 1; each <= LINES; each++) expect([order.length(each), order.oldest(each)]).toEqual([lines[each]?.length, lines[each]?.[0] ?? 0]);
        }
        for (let each = 1; each <= LINES; each++)
          for (const node of lines[each] as number[]) {
            expect(order.oldest(each)).toBe(node);
            order.place(node, NO_LINE, false);
          }
      }),
      { numRuns: runs(100) },
    );
  });
});
