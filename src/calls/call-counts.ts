/** What came of calls, as their caller got it: of the pod, and by DP group of those that have answered. @module */

export type Counts = {
  /** Choices that finished, by how; requests that were cancelled or failed. */
  readonly finished: Record<string, number>;
  /** Of prompts that have been computed: their first token is there. */
  prompt_tokens: number;
  generation_tokens: number;
};

const nothingCounted = (): Counts => ({ finished: { stop: 0, length: 0, cancelled: 0, failed: 0 }, prompt_tokens: 0, generation_tokens: 0 });

export class CallCounts {
  /** What ended before any DP group had answered is in none of theirs. */
  readonly all: Counts = nothingCounted();
  readonly groups = new Map<number, Counts>();

  prompt(group: number, tokens: number): void {
    this.all.prompt_tokens += tokens;
    this.#of(group).prompt_tokens += tokens;
  }

  token(group: number): void {
    this.all.generation_tokens++;
    this.#of(group).generation_tokens++;
  }

  /** `group` null: none has answered. */
  end(how: string, group: number | null): void {
    for (const { finished } of group === null ? [this.all] : [this.all, this.#of(group)]) finished[how] = (finished[how] ?? 0) + 1;
  }

  #of(group: number): Counts {
    const known = this.groups.get(group);
    if (known !== undefined) return known;
    const counts = nothingCounted();
    this.groups.set(group, counts);
    return counts;
  }
}
