/**
 * The id index of the relational tensor cache: prompts that somebody asked to keep under an id, and what there is of them (explicit context caching,
 * DeepServe §4.3). An id is an entrance to the prefix tree, not a second store: whoever begins with the same tokens finds the same blocks without it.
 *
 * Its blocks stay until the context is deleted, which is told: no time is read here. They are the last to go all the same, when sequences that run
 * would else find no room; who asks for the context then computes them anew, and they are kept again.
 * @module
 */
import type { KvTiers } from './kv-tiers.ts';
import type { PrefixNode, PrefixNodes, RememberedNode } from './prefix-nodes.ts';

export type Context = {
  readonly id: string;
  readonly space: string;
  readonly tokens: readonly number[];
  /** Nodes of its first whole blocks, as far as they were computed; some may be gone. */
  readonly path: RememberedNode[];
  isDeleted: boolean;
};

export class ContextIndex {
  readonly #nodes: PrefixNodes;
  readonly #tiers: KvTiers;
  readonly #block_size: number;
  readonly #byId = new Map<string, Context>();

  constructor(nodes: PrefixNodes, tiers: KvTiers, block_size: number) {
    this.#nodes = nodes;
    this.#tiers = tiers;
    this.#block_size = block_size;
  }

  get size(): number {
    return this.#byId.size;
  }

  get(id: string): Context | undefined {
    return this.#byId.get(id);
  }

  /** From now on these tokens are kept, what of them is known on `path` at once. A context that had the id is deleted. */
  create(id: string, space: string, tokens: readonly number[], path: readonly PrefixNode[]): void {
    this.delete(id);
    const context: Context = { id, space, tokens, path: [], isDeleted: false };
    this.#byId.set(id, context);
    this.keep(context, path);
  }

  /** False: there was none. */
  delete(id: string): boolean {
    const context = this.#byId.get(id);
    if (context === undefined) return false;
    this.#byId.delete(id);
    context.isDeleted = true;
    for (const known of context.path) this.#release(known);
    return true;
  }

  /** Nodes that hold the context's first blocks. */
  keep(context: Context, path: readonly PrefixNode[]): void {
    if (context.isDeleted) return;
    const whole = Math.min(path.length, Math.floor(context.tokens.length / this.#block_size));
    for (let depth = 0; depth < whole; depth++) {
      const [known, before] = [this.#nodes.remember(path[depth] as PrefixNode), context.path[depth]];
      if (known === before) continue;
      if (before !== undefined) this.#release(before);
      context.path[depth] = known;
      this.#keep(known, 1);
    }
  }

  toJSON(): object {
    return [...this.#byId.values()].map(({ id, space, tokens, path }) => ({
      id,
      space,
      tokens: tokens.length,
      kept: path.filter(({ isGone }) => !isGone).length,
    }));
  }

  #release(known: RememberedNode): void {
    if (!known.isGone) this.#keep(known, -1);
  }

  #keep({ node }: RememberedNode, more: 1 | -1): void {
    const { keeps } = this.#nodes;
    keeps[node] = (keeps[node] as number) + more;
    this.#tiers.settle(node);
  }
}
