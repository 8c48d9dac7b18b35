/**
 * `minipod trace open`: goes through a recorded run step by step, forth and back, stops where it is told to, and looks at any actor there.
 * @module
 */
import { createInterface } from 'node:readline/promises';
import { type Command, CommanderError, InvalidArgumentError } from 'commander';
import type { Address } from '../protocol/address.ts';
import { actsOf, type TracedAct } from '../trace/acts.ts';
import { grouped } from '../trace/damage.ts';
import { parseRunHeader, type RunHeader } from '../trace/run-header.ts';
import { lookAround, type StepLook } from '../trace/step-look.ts';
import { StepWalk, type Stop } from '../trace/step-walk.ts';
import { TraceReader } from '../trace/trace-reader.ts';
import { note, printLine } from './output.ts';
import { actors, messageTypes, positive, states, step, traceCommand } from './trace-arguments.ts';
import { noteEnd } from './trace-end.ts';
import { filterOf, STEP_TITLES, type StepFilter, stepLine } from './trace-ls.ts';
import { TraceProgress } from './trace-progress.ts';
import { lookLines } from './trace-show.ts';
import { outline } from './trace-words.ts';

const LIST_STEPS = 10;

export function addOpenCommand(trace: Command, setExitCode: (code: number) => void): void {
  const summary = 'Goes through a run step by step, forth and back, from the keyboard or a pipe; stops where it is told to.';
  traceCommand(trace, 'open', summary)
    .addHelpText('after', `\n${COMMANDS}\n${EXAMPLES}`)
    .action((file: string) => open(file, setExitCode));
}

async function open(file: string, setExitCode: (code: number) => void): Promise<void> {
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true;
  using reader = TraceReader.open(file);
  const session = new Session(file, reader, parseRunHeader(reader.header, file), setExitCode);
  await printLine(`${file}. help says what can be done.`);
  const lines = createInterface({ input: process.stdin, ...(isTerminal ? { output: process.stdout } : {}) });
  lines.on('SIGINT', () => lines.close());
  const ask = (): void => {
    if (!isTerminal) return;
    lines.setPrompt(`${session.place} > `);
    lines.prompt();
  };
  let last = '';
  ask();
  for await (const line of lines) {
    // As debuggers have it: an empty line does the last thing again.
    const order = line.trim() === '' ? last : line.trim();
    last = order;
    if (/^q(?:uit)?$/.test(order)) break;
    await session.carryOut(order);
    ask();
  }
  lines.close();
}

class Session {
  readonly #file: string;
  readonly #reader: TraceReader;
  readonly #header: RunHeader;
  readonly #setExitCode: (code: number) => void;
  readonly #walk: StepWalk;
  #breaks: { readonly text: string; readonly isHit: (traced: TracedAct) => boolean }[] = [];
  #stop: Stop | null = null;

  constructor(file: string, reader: TraceReader, header: RunHeader, setExitCode: (code: number) => void) {
    this.#file = file;
    this.#reader = reader;
    this.#header = header;
    this.#setExitCode = setExitCode;
    this.#walk = new StepWalk(reader, header);
  }

  get place(): string {
    return this.#stop === null ? 'start' : grouped(this.#stop.traced.index);
  }

  /** The step that was replayed last; −1: none yet. */
  get #index(): number {
    return this.#stop?.traced.index ?? -1;
  }

  async carryOut(order: string): Promise<void> {
    const [name = '', ...words] = order.split(/\s+/);
    try {
      await this.#perform(name, words);
    } catch (error) {
      if (!(error instanceof CommanderError)) throw error;
      note(error.message);
    }
  }

  async #perform(name: string, words: readonly string[]): Promise<unknown> {
    const [word] = words;
    switch (name) {
      case '':
        return undefined;
      case 'n':
      case 'next':
        return this.#next(word === undefined ? 1 : positive(word));
      case 'b':
      case 'back':
        return this.#goTo(Math.max(0, this.#index - (word === undefined ? 1 : positive(word))));
      case 'g':
      case 'go':
        return this.#goTo(step(word ?? ''));
      case 'c':
      case 'continue':
        return this.#continue();
      case 'r':
      case 'reverse':
        return this.#reverse();
      case 'break':
        return word === undefined ? this.#listBreaks() : this.#addBreak(words);
      case 'clear':
        this.#breaks = word === undefined ? [] : this.#breaks.toSpliced(positive(word) - 1, 1);
        return this.#listBreaks();
      case 's':
      case 'show':
        return this.#show();
      case 'a':
      case 'actor':
        return this.#look(word ?? '');
      case 'l':
      case 'list':
        return this.#list(word === undefined ? LIST_STEPS : positive(word));
      case 'h':
      case 'help':
        return printLine(COMMANDS);
      default:
        throw new InvalidArgumentError(`${name} is no command; help says which there are.`);
    }
  }

  async #next(count: number): Promise<void> {
    for (let left = count; left > 0; left--) if (!(await this.#goTo(this.#index + 1))) return;
  }

  /** False: the trace has no such step; then the walk stays where it was. */
  async #goTo(index: number): Promise<boolean> {
    const stop = await this.#walkTo(index);
    if (stop === null) {
      const { acts } = this.#walk;
      note(`the trace ends before step ${grouped(index)}`);
      noteEnd(this.#file, acts, 'can be gone through', this.#setExitCode);
      if (this.#stop !== null) this.#stop = await this.#walkTo(this.#stop.traced.index);
      return false;
    }
    this.#stop = stop;
    await printLine(stepLine(stop.traced));
    if (stop.divergence?.record === stop.traced.index) note(`this minipod does otherwise here: ${stop.divergence.difference}`);
    return true;
  }

  async #walkTo(index: number): Promise<Stop | null> {
    using progress = new TraceProgress(`replaying ${this.#file}`, this.#reader.file_bytes);
    return await this.#walk.goTo(index, progress.pause);
  }

  /** Whether to stop at a step is told by its record: nothing is replayed for it. */
  #isHit(traced: TracedAct): boolean {
    return this.#breaks.some(({ isHit }) => isHit(traced));
  }

  async #continue(): Promise<void> {
    let last = this.#index;
    const acts = actsOf(this.#reader, this.#index + 1);
    for (const traced of acts) {
      if (this.#isHit(traced)) return void (await this.#goTo(traced.index));
      last = traced.index;
    }
    note(this.#breaks.length === 0 ? 'there is no break, so this is the end' : 'no break behind here: this is the end');
    if (last > this.#index) await this.#goTo(last);
    noteEnd(this.#file, acts, 'can be gone through', this.#setExitCode);
  }

  async #reverse(): Promise<void> {
    let hit: number | null = null;
    for (const traced of actsOf(this.#reader)) {
      if (traced.index >= this.#index) break;
      if (this.#isHit(traced)) hit = traced.index;
    }
    if (hit === null) note('no break before here');
    else await this.#goTo(hit);
  }

  async #addBreak(words: readonly string[]): Promise<void> {
    const isHit = filterOf(breakFilter(words));
    this.#breaks.push({ text: words.join(' '), isHit });
    await this.#listBreaks();
  }

  async #listBreaks(): Promise<void> {
    if (this.#breaks.length === 0) await printLine('no breaks');
    for (const [index, { text }] of this.#breaks.entries()) await printLine(`break ${index + 1}: ${text}`);
  }

  async #show(): Promise<void> {
    if (this.#stop === null) throw new InvalidArgumentError('Nothing has happened yet: next goes on.');
    for (const line of lookLines(await this.#lookAround(this.#stop))) await printLine(line);
  }

  async #lookAround(stop: Stop): Promise<StepLook> {
    using progress = new TraceProgress(`searching ${this.#file}`, this.#reader.file_bytes);
    return await lookAround(this.#reader, this.#header, stop, progress.pause);
  }

  async #look(actor: string): Promise<void> {
    const found = this.#walk.look(actor as Address);
    if (found === null) throw new InvalidArgumentError(`Nobody called ${actor} is alive here.`);
    await printLine(`${actor} is ${found.state}`);
    for (const line of outline(found.context)) await printLine(line);
  }

  async #list(count: number): Promise<void> {
    await printLine(STEP_TITLES);
    const from = Math.max(0, this.#index);
    for (const traced of actsOf(this.#reader, from)) {
      if (traced.index >= from + count) return;
      await printLine(stepLine(traced));
    }
  }
}

/** `actor request/7 type CANCEL`: all of it must be so. */
function breakFilter(words: readonly string[]): StepFilter {
  const filter: { -readonly [Name in keyof StepFilter]: StepFilter[Name] } = {};
  for (let at = 0; at < words.length; at += 2) {
    const [what = '', value] = [words[at], words[at + 1]];
    if (what === 'unexpected') {
      filter.unexpected = true;
      at--;
      continue;
    }
    if (value === undefined) throw new InvalidArgumentError(`break ${what} of what?`);
    if (what === 'actor' || what === 'sender') filter[what] = actors(value, filter[what]);
    else if (what === 'type') filter.type = messageTypes(value, filter.type);
    else if (what === 'state') filter.state = states(value, filter.state);
    else throw new InvalidArgumentError(`A break is on actor, sender, type, state or unexpected, not on ${what}.`);
  }
  return filter;
}

const COMMANDS = `Commands:
  n, next [N]       the next step, or N of them
  b, back [N]       the step before, or N before; it is replayed from the beginning
  g, go STEP        this step
  c, continue       on to the next break, or to the end
  r, reverse        back to the break before
  break WHAT …      stop at steps like that: actor request/7, sender npu/0, type CANCEL, state preempted, unexpected;
                    several in one line must all be so; alone, it lists the breaks
  clear [N]         forget break N, or all
  s, show           this step in full, as \`minipod trace show\` has it
  a, actor ADDRESS  any actor that is alive here: its state and context
  l, list [N]       the steps from here on
  q, quit           or Ctrl-D; an empty line does the last thing again`;

const EXAMPLES = `
Examples:
  $ minipod trace open run.trace
  $ printf 'break actor request/7 type CANCEL\\nc\\nactor task/896\\n' | minipod trace open run.trace`;
