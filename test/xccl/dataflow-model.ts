/**
 * The dataflow between attention NPUs and expert NPUs as a small model, small enough that all of its states can be looked at: who waits for whom, and what for.
 *
 *   question of an asker's lane to an expert NPU     none ─▶ asked ─▶ received, with room for its answer ─▶ answered ─▶ none (pulled: its room is free)
 *
 * A lane asks for its next layer when all that it asked for this one is pulled. Room and orders are as exchange.ts, reserved-replies.ts and expert-service.ts have
 * them; `Discipline` also has those that they do not, which lead to circles.
 */
export type Discipline = {
  /** Answers that an expert NPU has room for at once; null: each asker's lane has a place of its own. */
  readonly room: number | null;
  /** An asker pulls each answer as it comes; or none before all of a layer are there. */
  readonly pulls: 'each' | 'all together';
};

export type Shape = { readonly askers: number; readonly lanes: number; readonly experts: number; readonly layers: number };

/** Of a question. */
const NONE = 0;
const ASKED = 1;
const RECEIVED = 2;
const ANSWERED = 3;

/** By lane (asker × lanes + lane): its layer, then the state of its question to each expert NPU. Of an asker that gave a step up, the layer is 0 again. */
type State = readonly number[];

/** What may happen next, and what is so afterwards. */
export type Move = { readonly what: string; readonly to: State };

export class DataflowModel {
  readonly #shape: Shape;
  readonly #discipline: Discipline;
  readonly #lanes: number;

  constructor(shape: Shape, discipline: Discipline) {
    this.#shape = shape;
    this.#discipline = discipline;
    this.#lanes = shape.askers * shape.lanes;
  }

  get start(): State {
    return new Array(this.#lanes * (1 + this.#shape.experts)).fill(0);
  }

  isDone(state: State): boolean {
    return this.#allLanes().every(
      (lane) => this.#layerOf(state, lane) === this.#shape.layers && this.#questions(state, lane).every((question) => question === NONE),
    );
  }

  /** Each raises the sum of what was asked, received, answered and pulled: so no run goes on for ever. */
  progress(state: State): Move[] {
    return this.#allLanes().flatMap((lane) => [
      ...this.#asks(state, lane),
      ...this.#allExperts().flatMap((expert) => [
        ...this.#receives(state, lane, expert),
        ...this.#answers(state, lane, expert),
        ...this.#pulls(state, lane, expert),
      ]),
    ]);
  }

  /** An expert NPU dies, and its successor is asked again; an asker gives its step up and begins anew. */
  mishaps(state: State): Move[] {
    const died = this.#allExperts().map((expert) => ({
      what: `expert NPU ${expert} dies`,
      to: this.#changed(state, (lane) => (this.#question(state, lane, expert) === NONE ? [] : [[this.#at(lane, expert), ASKED]])),
    }));
    const gaveUp = Array.from({ length: this.#shape.askers }, (_, asker) => ({
      what: `asker ${asker} gives up`,
      to: this.#changed(state, (lane) =>
        Math.floor(lane / this.#shape.lanes) === asker
          ? [[this.#at(lane, -1), 0], ...this.#allExperts().map((expert): [number, number] => [this.#at(lane, expert), NONE])]
          : [],
      ),
    }));
    return [...died, ...gaveUp];
  }

  /** Any of the expert NPUs that there are, but at least one. */
  #asks(state: State, lane: number): Move[] {
    const layer = this.#layerOf(state, lane);
    if (layer === this.#shape.layers || this.#questions(state, lane).some((question) => question !== NONE)) return [];
    return Array.from({ length: 2 ** this.#shape.experts - 1 }, (_, subset) => ({
      what: `lane ${lane} asks ${(subset + 1).toString(2)} in layer ${layer}`,
      to: this.#changed(state, (of) =>
        of !== lane
          ? []
          : [
              [this.#at(lane, -1), layer + 1],
              ...this.#allExperts().flatMap((expert): [number, number][] => (((subset + 1) >> expert) & 1 ? [[this.#at(lane, expert), ASKED]] : [])),
            ],
      ),
    }));
  }

  #receives(state: State, lane: number, expert: number): Move[] {
    const held = this.#allLanes().filter((other) => [RECEIVED, ANSWERED].includes(this.#question(state, other, expert))).length;
    const hasRoom = this.#discipline.room === null || held < this.#discipline.room;
    return this.#question(state, lane, expert) === ASKED && hasRoom ? [this.#move(state, 'receives', lane, expert, RECEIVED)] : [];
  }

  #answers(state: State, lane: number, expert: number): Move[] {
    return this.#question(state, lane, expert) === RECEIVED ? [this.#move(state, 'answers', lane, expert, ANSWERED)] : [];
  }

  #pulls(state: State, lane: number, expert: number): Move[] {
    const mayPull = this.#discipline.pulls === 'each' || this.#questions(state, lane).every((question) => question === NONE || question === ANSWERED);
    if (this.#question(state, lane, expert) !== ANSWERED || !mayPull) return [];
    if (this.#discipline.pulls === 'each') return [this.#move(state, 'pulls', lane, expert, NONE)];
    const to = this.#changed(state, (of) => (of === lane ? this.#allExperts().map((other): [number, number] => [this.#at(lane, other), NONE]) : []));
    return [{ what: `lane ${lane} pulls all`, to }];
  }

  #move(state: State, what: string, lane: number, expert: number, question: number): Move {
    const to = this.#changed(state, (of) => (of === lane ? [[this.#at(lane, expert), question]] : []));
    return { what: `lane ${lane} and expert NPU ${expert}: ${what}`, to };
  }

  #changed(state: State, changes: (lane: number) => readonly (readonly [number, number])[]): State {
    const to = [...state];
    for (const lane of this.#allLanes()) for (const [at, value] of changes(lane)) to[at] = value;
    return to;
  }

  /** −1: of the lane's layer. */
  #at(lane: number, expert: number): number {
    return lane * (1 + this.#shape.experts) + 1 + expert;
  }

  #layerOf(state: State, lane: number): number {
    return state[this.#at(lane, -1)] as number;
  }

  #question(state: State, lane: number, expert: number): number {
    return state[this.#at(lane, expert)] as number;
  }

  #questions(state: State, lane: number): number[] {
    return this.#allExperts().map((expert) => this.#question(state, lane, expert));
  }

  #allLanes(): number[] {
    return Array.from({ length: this.#lanes }, (_, lane) => lane);
  }

  #allExperts(): number[] {
    return Array.from({ length: this.#shape.experts }, (_, expert) => expert);
  }
}

/** All states that can come about; `stuck`: the shortest way to one where nothing can go on although not all is done, if there is one. */
export function explore(model: DataflowModel): { readonly states: number; readonly stuck: readonly string[] | null } {
  const known = new Map<string, { readonly from: string | null; readonly what: string }>([[model.start.join(), { from: null, what: 'start' }]]);
  let frontier = [model.start];
  while (frontier.length > 0) {
    const next: State[] = [];
    for (const state of frontier) {
      const key = state.join();
      const moves = model.progress(state);
      if (moves.length === 0 && !model.isDone(state)) return { states: known.size, stuck: wayTo(known, key) };
      for (const { what, to } of [...moves, ...model.mishaps(state)]) {
        const name = to.join();
        if (known.has(name)) continue;
        known.set(name, { from: key, what });
        next.push(to);
      }
    }
    frontier = next;
  }
  return { states: known.size, stuck: null };
}

function wayTo(known: ReadonlyMap<string, { readonly from: string | null; readonly what: string }>, key: string): string[] {
  const way: string[] = [];
  for (let at: string | null = key; at !== null; ) {
    const step = known.get(at);
    if (step === undefined) break;
    way.unshift(step.what);
    at = step.from;
  }
  return way.slice(1);
}
