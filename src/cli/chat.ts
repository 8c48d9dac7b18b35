/**
 * `minipod chat`: a conversation, line by line. On a terminal Ctrl-C stops an answer, and ends the chat where none is running.
 * @module
 */
import { createInterface } from 'node:readline/promises';
import { type ChatMessage, type GenerateOptions, MinipodError, type Pod, type PodOptions } from '../index.ts';
import { limitsFor } from './generate.ts';
import { Interrupt } from './interrupt.ts';
import { openPod } from './open-pod.ts';
import { note, print, printJson, printLine } from './output.ts';

export const CHAT_DEFAULTS = { max_tokens: 256, min_tokens: 0, temperature: 0.7 } as const;

export type ChatCommand = { readonly pod: PodOptions; readonly sampling: GenerateOptions; readonly system: string | undefined; readonly json: boolean };

type Answering = { readonly pod: Pod; readonly sampling: GenerateOptions; readonly json: boolean; readonly signal: AbortSignal };

const HELP = 'Write and press Enter. /reset forgets the conversation, /exit or Ctrl-D ends it, Ctrl-C stops an answer.';

export async function chat({ pod: podOptions, sampling, system, json }: ChatCommand): Promise<number> {
  const isTerminal = process.stdin.isTTY === true && process.stdout.isTTY === true && !json;
  await using pod = await openPod(podOptions);
  if (!pod.model.has_chat_template)
    throw new MinipodError('invalid_request', `${pod.model.name} has no chat template; use minipod generate`, { param: 'model' });
  using interrupt = new Interrupt();
  const opening: readonly ChatMessage[] = system === undefined ? [] : [{ role: 'system', content: system }];
  let messages = opening;
  let answer: AbortController | null = null;

  const lines = createInterface({ input: process.stdin, ...(isTerminal ? { output: process.stdout, prompt: '> ' } : {}) });
  interrupt.signal.addEventListener('abort', () => lines.close());
  // Raw mode: the terminal gives Ctrl-C as a key, not as a signal.
  lines.on('SIGINT', () => (answer === null ? interrupt.raise('SIGINT') : answer.abort()));
  if (isTerminal) note(`${pod.model.name}. ${HELP}`);
  if (isTerminal) lines.prompt();
  for await (const line of lines) {
    if (interrupt.signal.aborted || line.trim() === '/exit') break;
    if (line.trim() === '/reset') messages = opening;
    else if (line.trim() === '/help') note(HELP);
    else if (line.trim() !== '') {
      answer = new AbortController();
      const asked = [...messages, { role: 'user', content: line }];
      try {
        const content = await answerTo(asked, { pod, sampling, json, signal: AbortSignal.any([answer.signal, interrupt.signal]) });
        messages = [...asked, { role: 'assistant', content }];
      } catch (error) {
        if (!(error instanceof MinipodError) || (!isTerminal && error.code !== 'cancelled')) throw error;
        await printLine('');
        if (error.code !== 'cancelled') note(`minipod: ${error.message}${error.code === 'context_length_exceeded' ? '; /reset starts anew' : ''}`);
      }
      answer = null;
    }
    if (interrupt.signal.aborted) break;
    if (isTerminal) lines.prompt();
  }
  lines.close();
  return interrupt.exit_code;
}

async function answerTo(messages: readonly ChatMessage[], { pod, sampling, json, signal }: Answering): Promise<string> {
  const limits = await limitsFor(pod, messages, sampling, CHAT_DEFAULTS);
  const generation = pod.generate(messages, { temperature: CHAT_DEFAULTS.temperature, ...sampling, ...limits, signal });
  let content = '';
  let finish_reason = null;
  for await (const chunk of generation) {
    content += chunk.text;
    finish_reason = chunk.finish_reason;
    if (!json) await print(chunk.text);
  }
  if (json) await printJson({ role: 'assistant', content, finish_reason, usage: generation.usage(), seed: generation.seed });
  else await printLine('');
  return content;
}
