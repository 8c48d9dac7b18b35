/**
 * What the platform has for two threads: MessageChannel and BroadcastChannel, as a one-way stream and as a round trip.
 * @module
 */
import { BroadcastChannel, MessageChannel, type MessagePort } from 'node:worker_threads';
import type { Duo, Side } from './fabric-duo.ts';

export type ChannelKind = 'MessageChannel' | 'BroadcastChannel';
/** `port`: the other end of a MessageChannel; null: the BroadcastChannel. `hello`: what this job is greeted with. */
type ChannelArgs = { readonly messages: number; readonly echoes: boolean; readonly port: MessagePort | null; readonly hello: string };
/** What the two have in common; Node's types of a MessagePort leave `onmessage` out, which is the faster way on Deno. */
type Channel = { onmessage: ((event: { readonly data: unknown }) => void) | null; postMessage(message: unknown): void; close(): void };

/** Said until it is heard: a BroadcastChannel loses what is posted before its other end listens, which Deno's does some time after it was made. */
const HELLO_MS = 2;
/** Messages of a BroadcastChannel that are under way at most: Deno's drops what its reader does not keep up with. */
const BROADCAST_WINDOW = 64;
const WINDOW_READ = 'window read';
let greetings = 0;

/** One a thread and for good: Deno's cannot be opened again once the last one was closed. */
let broadcast: Channel | null = null;
const openBroadcast = (): Channel => {
  broadcast ??= new BroadcastChannel('minipod-bench') as unknown as Channel;
  return broadcast;
};
/** It would keep the process alive. */
export const closeBroadcast = (): void => broadcast?.close();

/** The other half: takes so many messages; sends each back, or says when a window of them is read. */
export async function takeMessages(_side: Side, { messages, echoes, port, hello }: ChannelArgs): Promise<void> {
  const channel = port === null ? openBroadcast() : (port as unknown as Channel);
  await new Promise<void>((resolve) => {
    let left = messages;
    channel.onmessage = ({ data }) => {
      if (data === hello || (echoes && typeof data !== 'string')) channel.postMessage(data);
      if (typeof data === 'string') return;
      left--;
      if (left === 0) resolve();
      else if (!echoes && port === null && (messages - left) % BROADCAST_WINDOW === 0) channel.postMessage(WINDOW_READ);
    };
  });
}

type Opened = { readonly channel: Channel; readonly finished: Promise<void> };

/** Resolves when the other end has answered, so that both are awake. */
async function open(duo: Duo, kind: ChannelKind, messages: number, echoes: boolean): Promise<Opened> {
  const hello = `hello ${greetings++}`;
  const { port1, port2 } = new MessageChannel();
  const channel = kind === 'MessageChannel' ? (port1 as unknown as Channel) : openBroadcast();
  const port = kind === 'MessageChannel' ? port2 : null;
  const finished = duo.there('takeMessages', { messages, echoes, port, hello }, port === null ? [] : [port]);
  await new Promise<void>((resolve) => {
    const calling = setInterval(() => channel.postMessage(hello), HELLO_MS);
    channel.onmessage = ({ data }) => {
      if (data !== hello) return;
      clearInterval(calling);
      resolve();
    };
  });
  return { channel, finished };
}

/** Posts messages that are no strings: millions a second, from the first one posted to the last one received. */
export async function streamRate(duo: Duo, make: (index: number) => unknown, messages: number, kind: ChannelKind): Promise<number> {
  const { channel, finished } = await open(duo, kind, messages, false);
  const start = performance.now();
  let next = 0;
  const post = (): void => {
    for (const end = kind === 'BroadcastChannel' ? Math.min(messages, next + BROADCAST_WINDOW) : messages; next < end; next++) channel.postMessage(make(next));
  };
  channel.onmessage = ({ data }) => {
    if (data === WINDOW_READ) post();
  };
  post();
  await finished;
  const took_ms = performance.now() - start;
  if (kind === 'MessageChannel') channel.close();
  return messages / took_ms / 1000;
}

/** Microseconds from a message posted to the same one back, one at a time: the mean over `messages`. */
export async function channelTrip_us(duo: Duo, message: unknown, messages: number, kind: ChannelKind): Promise<number> {
  const { channel, finished } = await open(duo, kind, messages, true);
  const start = performance.now();
  await new Promise<void>((resolve) => {
    let left = messages;
    channel.onmessage = ({ data }) => {
      if (typeof data === 'string') return;
      if (--left === 0) resolve();
      else channel.postMessage(message);
    };
    channel.postMessage(message);
  });
  const took_ms = performance.now() - start;
  await finished;
  if (kind === 'MessageChannel') channel.close();
  return (took_ms / messages) * 1000;
}
