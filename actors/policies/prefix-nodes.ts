/**
 * The nodes of the prefix tree: a node is a number, and what there is to know of it stands in lists under that number, side by side in memory. An object for each
 * would lie wherever the heap put it, and in a large tree what costs is to reach it, not to look at it.
 *
 * A number is another node's once its own is out of the tree, nobody uses it and nothing moves its block. So whoever pins a node or moves it may keep its number;
 * whoever only remembers it keeps a `RememberedNode`, which tells when it is gone.
 * @module
 */
import { assert } from '../../src/protocol/errors.ts';

export type PrefixNode = number;
export const NO_NODE: PrefixNode = 0;
export const NO_BLOCK = -1;

export type RememberedNode = {
  readonly node: PrefixNode;
  /** It is no longer in the tree. */
  isGone: boolean;
};

/** Tenants and adapters that there is room for at first, before `take` makes more. */
const ROOTS = 64;
const LISTS = [
  ...(['low', 'high', 'chained', 'parent', 'firstChild', 'lastChild', 'elder', 'younger'] as const),
  ...(['hbm', 'dram', 'moving', 'pins', 'keeps', 'usedAgain', 'gone'] as const),
];

/** Its lists are others, and longer, where `take` has found them full: whoever takes a node asks for them anew. */
export class PrefixNodes {
  /** Its name in two parts, and the next of the tree's chain of those whose low parts are alike (prefix-tree.ts). */
  low: Int32Array;
  high: Int32Array;
  chained: Int32Array;
  /** A root's is `NO_NODE`. */
  parent: Int32Array;
  firstChild: Int32Array;
  lastChild: Int32Array;
  /** The children of its parent that came just before it, and just behind. */
  elder: Int32Array;
  younger: Int32Array;
  /** Its block in each tier, or `NO_BLOCK`. */
  hbm: Int32Array;
  dram: Int32Array;
  /** The transfer that copies its block right now; 0: none does. */
  moving: Int32Array;
  /** Sequences that use it, and contexts that ask for it to be kept. */
  pins: Int32Array;
  keeps: Int32Array;
  /** 1: it was used since it was copied to DRAM. */
  usedAgain: Int32Array;
  /** 1: it is no longer in the tree. */
  gone: Int32Array;
  readonly #free: PrefixNode[] = [];
  /** Numbers that were ever taken, with the one that is no node's. */
  #taken = NO_NODE + 1;
  readonly #remembered = new Map<PrefixNode, RememberedNode>();

  /** `blocks`: that there are. Each is one node's, as a rule. */
  constructor(blocks: number) {
    const none = (): Int32Array => new Int32Array(NO_NODE + 1 + blocks + ROOTS);
    this.low = none();
    this.high = none();
    this.chained = none();
    this.parent = none();
    this.firstChild = none();
    this.lastChild = none();
    this.elder = none();
    this.younger = none();
    this.hbm = none();
    this.dram = none();
    this.moving = none();
    this.pins = none();
    this.keeps = none();
    this.usedAgain = none();
    this.gone = none();
  }

  /** Nodes are numbered below that, for now. */
  get room(): number {
    return this.low.length;
  }

  /** A number, of which nothing is known yet: nothing uses it, moves it or lies below it. */
  take(): PrefixNode {
    const node = this.#free.pop() ?? this.#taken++;
    if (node === this.room) for (const list of LISTS) this[list] = twiceAsLong(this[list]);
    this.parent[node] = NO_NODE;
    this.firstChild[node] = NO_NODE;
    this.lastChild[node] = NO_NODE;
    this.younger[node] = NO_NODE;
    this.hbm[node] = NO_BLOCK;
    this.dram[node] = NO_BLOCK;
    this.keeps[node] = 0;
    this.usedAgain[node] = 0;
    this.gone[node] = 0;
    return node;
  }

  /** It is out of the tree. Its number stays its own until `giveBack`. */
  leave(node: PrefixNode): void {
    this.gone[node] = 1;
    const remembered = this.#remembered.get(node);
    if (remembered === undefined) return;
    remembered.isGone = true;
    this.#remembered.delete(node);
  }

  giveBack(node: PrefixNode): void {
    assert(this.isGone(node) && this.pins[node] === 0 && this.moving[node] === 0, 'a node that is used, moved or known gives back its number');
    this.#free.push(node);
  }

  isGone(node: PrefixNode): boolean {
    return this.gone[node] !== 0;
  }

  /** For who keeps it and does not pin it: the same to all. */
  remember(node: PrefixNode): RememberedNode {
    if (this.isGone(node)) return { node, isGone: true };
    let remembered = this.#remembered.get(node);
    if (remembered === undefined) {
      remembered = { node, isGone: false };
      this.#remembered.set(node, remembered);
    }
    return remembered;
  }
}

function twiceAsLong(list: Int32Array): Int32Array<ArrayBuffer> {
  const longer = new Int32Array(2 * list.length);
  longer.set(list);
  return longer;
}
