/**
 * A crowd of HTTP clients that come at once: most read as it comes, some do not read until all of those have finished, some hang up at any moment. All who stay
 * must be told exactly what a client alone was told.
 *
 * Bare sockets: what is not read stays in them, and a client that hangs up is gone in the middle of a packet.
 */
import { connect, type Socket } from 'node:net';

export type CrowdOptions = {
  readonly clients: number;
  /** Of them: who reads nothing until the quick ones have finished, and who hangs up. */
  readonly stalled: number;
  readonly aborting: number;
  /** Whose stream is larger than what sockets hold; of the stalled, if there are any. */
  readonly heavy: number;
  readonly max_tokens: number;
  readonly heavy_tokens: number;
  /** Connections that may be tried at once: the backlog of a listener is finite. */
  readonly connecting_max?: number;
};

export type CrowdReport = {
  readonly quick: number;
  readonly stalled: number;
  readonly aborted: number;
  /** What went wrong with whom. */
  readonly wrong: readonly string[];
  /** From the first connection to the last quick reader's end; and until the last stalled one had read all. */
  readonly quick_ms: number;
  readonly all_ms: number;
  /** Until the first event of a quick reader: the median and the last. */
  readonly first_ms: readonly [median: number, last: number];
  /** Bytes that a stalled reader found when it began to read, at most; and of its whole answer, at most. */
  readonly heavy_bytes: number;
};

const TALES = 16;

/** Choices of a heavy request: their tokens come in one stream. */
const HEAVY_CHOICES = 16;

type Ask = { readonly prompt: string; readonly seed: number; readonly max_tokens: number; readonly logprobs?: number; readonly n?: number };

const askOf = (tale: number, max_tokens: number, isHeavy = false): Ask => ({
  ...{ prompt: `Tale number ${tale}: once upon a time`, seed: tale, max_tokens },
  // Most of a kilobyte a token.
  ...(isHeavy && { logprobs: 20, n: HEAVY_CHOICES }),
});

class Client {
  readonly socket: Socket;
  readonly ended: Promise<void>;
  first_ms: number | null = null;
  bytes = 0;
  #text = '';

  private constructor(socket: Socket, started_ms: number) {
    this.socket = socket;
    this.ended = new Promise((resolve) => socket.once('close', () => resolve()));
    socket.setEncoding('latin1');
    socket.on('error', () => {});
    socket.on('data', (data: string) => {
      this.#text += data;
      this.bytes += data.length;
      if (this.first_ms === null && this.#text.includes('data: ')) this.first_ms = performance.now() - started_ms;
    });
  }

  static async ask(port: number, ask: Ask, started_ms: number): Promise<Client> {
    const socket = connect(port, '127.0.0.1');
    await new Promise<void>((resolve, reject) => {
      socket.once('connect', resolve);
      socket.once('error', reject);
    });
    const body = JSON.stringify({ ...ask, temperature: 1, ignore_eos: true, stream: true });
    const head = `POST /v1/completions HTTP/1.1\r\nhost: x\r\nconnection: close\r\ncontent-type: application/json\r\ncontent-length: ${body.length}\r\n\r\n`;
    socket.write(head + body);
    return new Client(socket, started_ms);
  }

  /** What it was told, once the connection is closed; or what is wrong with it. */
  told(): { text: string; tokens: number } | string {
    const events = this.#text.split('\n').flatMap((line) => (line.startsWith('data: ') ? [line.slice(6).trimEnd()] : []));
    if (!this.#text.startsWith('HTTP/1.1 200')) return `answered ${this.#text.slice(0, 200)}`;
    if (events.at(-1) !== '[DONE]') return `its stream ends with ${events.at(-1)?.slice(0, 200)}`;
    type Choice = { readonly index: number; readonly text: string; readonly logprobs: { readonly tokens: readonly string[] } | null };
    const choices = events.slice(0, -1).flatMap((event) => (JSON.parse(event) as { choices: Choice[] }).choices);
    const first = choices.filter(({ index }) => index === 0);
    return { text: first.map(({ text }) => text).join(''), tokens: choices.reduce((sum, { logprobs }) => sum + (logprobs?.tokens.length ?? 0), 0) };
  }
}

/** What a client alone is told, by tale. */
export async function talesAlone(port: number, max_tokens: number): Promise<string[]> {
  const tales: string[] = [];
  for (let tale = 0; tale < TALES; tale++) {
    const client = await Client.ask(port, askOf(tale, max_tokens), performance.now());
    await client.ended;
    const told = client.told();
    if (typeof told === 'string') throw new Error(told);
    tales.push(told.text);
  }
  return tales;
}

/** A number from 0 to 1, the same for the same client. */
const chanceOf = (id: number): number => ((Math.imul(id + 1, 0x9e3779b1) >>> 8) % 65_536) / 65_536;

export async function crowd(port: number, tales: readonly string[], options: CrowdOptions): Promise<CrowdReport> {
  const { clients, stalled, aborting, heavy, max_tokens, heavy_tokens, connecting_max = 100 } = options;
  const started_ms = performance.now();
  const wrong: string[] = [];
  const quickFirst: number[] = [];
  const [quickDone, stalledClients]: [Promise<void>[], { id: number; client: Client; isHeavy: boolean }[]] = [[], []];
  let aborted = 0;
  const check = (id: number, client: Client, isHeavy: boolean): void => {
    const told = client.told();
    const tale = tales[id % TALES] ?? '';
    if (typeof told === 'string') wrong.push(`client ${id}: ${told}`);
    else if (isHeavy ? told.tokens !== HEAVY_CHOICES * heavy_tokens || !told.text.startsWith(tale) : told.text !== tale)
      wrong.push(`client ${id}: ${JSON.stringify(told.text.slice(0, 200))} of ${told.tokens} tokens is not ${JSON.stringify(tale)}`);
  };
  const come = async (id: number): Promise<void> => {
    const isStalled = id < stalled;
    const isHeavy = id < heavy;
    const client = await Client.ask(port, askOf(id % TALES, isHeavy ? heavy_tokens : max_tokens, isHeavy), started_ms);
    if (isStalled) {
      client.socket.pause();
      stalledClients.push({ id, client, isHeavy });
    } else if (id < stalled + aborting) {
      // At once, while it waits, or in the middle of its stream: the last of them when most of the others are done.
      setTimeout(() => client.socket.destroy(), chanceOf(id) ** 2 * 20 * max_tokens);
      quickDone.push(client.ended.then(() => void aborted++));
    } else
      quickDone.push(
        client.ended.then(() => {
          check(id, client, isHeavy);
          if (client.first_ms !== null) quickFirst.push(client.first_ms);
        }),
      );
  };
  for (let next = 0; next < clients; next += connecting_max)
    await Promise.all(Array.from({ length: Math.min(connecting_max, clients - next) }, (_, index) => come(next + index)));
  await Promise.all(quickDone);
  const quick_ms = performance.now() - started_ms;
  for (const { client } of stalledClients) client.socket.resume();
  await Promise.all(stalledClients.map(({ client }) => client.ended));
  for (const { id, client, isHeavy } of stalledClients) check(id, client, isHeavy);
  quickFirst.sort((a, b) => a - b);
  return {
    ...{ quick: clients - stalled - aborting, stalled, aborted, wrong, quick_ms, all_ms: performance.now() - started_ms },
    first_ms: [quickFirst[quickFirst.length >> 1] ?? Number.NaN, quickFirst.at(-1) ?? Number.NaN],
    heavy_bytes: Math.max(0, ...stalledClients.map(({ client }) => client.bytes)),
  };
}
