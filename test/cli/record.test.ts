/** Runs that are recorded by the real command, and what is left of a trace when its run, or its disk, comes to a bad end. */
import { statSync } from 'node:fs';
import { afterAll, describe, expect, it } from 'vitest';
import type { ActRecord } from '../../src/trace/act-record.ts';
import { actsOf } from '../../src/trace/acts.ts';
import { type ReplayReport, replayTrace } from '../../src/trace/replay-trace.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { traceFolder } from '../trace/files.ts';
import { jsonLines, minipod, minipodUnder, type Run, start } from './command.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

async function replay(path: string): Promise<ReplayReport & { readonly read: readonly ActRecord[] }> {
  using reader = TraceReader.open(path);
  const report = await replayTrace(reader, parseRunHeader(reader.header, path));
  return { ...report, read: [...actsOf(reader)].map(({ act }) => act) };
}

const isStepDone = ({ message }: ActRecord): boolean => message?.type === 'STEP_DONE';

function hasStep(path: string): boolean {
  using reader = TraceReader.open(path);
  return [...actsOf(reader)].some(({ act }) => isStepDone(act));
}

async function serving(...args: string[]): Promise<Run & { readonly ask: (body: object) => Promise<Response> }> {
  const running = start(['serve', '--port', '0', '--json', ...args]);
  await running.until((stdout) => stdout.includes('\n'));
  const { url } = jsonLines(running.stdout)[0] as { url: string };
  const headers = { 'content-type': 'application/json' };
  const ask = (body: object): Promise<Response> => fetch(`${url}/v1/completions`, { method: 'POST', headers, body: JSON.stringify(body) });
  return Object.assign(running, { ask });
}

const GENERATE = ['generate', 'Once', 'upon', 'a', 'time', '--json', '--n', '4', '--max-tokens', '150', '--ignore-eos', '--seed', '3'];

/** Of each choice: its tokens. */
function tokensOf(stdout: string): number[][] {
  const choices: number[][] = [];
  for (const line of jsonLines(stdout) as { choice?: number; token_ids?: number[] }[])
    if (line.choice !== undefined) choices[line.choice] = [...(choices[line.choice] ?? []), ...(line.token_ids ?? [])];
  return choices;
}

describe('minipod serve --record', () => {
  it('should end the trace whole when it is told to stop, with what still ran; and without prompts where they are to be left out', async () => {
    const path = folder.file('served.trace');
    const running = await serving('--record', path, '--no-record-prompts', '--no-prefix-caching', '--npus', '2');
    await (await running.ask({ prompt: 'Once upon a time', max_tokens: 8 })).json();
    const response = await running.ask({ prompt: 'The wolf', max_tokens: 200, ignore_eos: true, stream: true });
    running.kill('SIGTERM');
    expect(await response.text()).toMatch(/data: \[DONE\]\n\n$/);
    expect((await running.ended).code).toBe(0);
    const { outcome, damage, acts, read } = await replay(path);
    expect({ outcome, damage, acts }).toEqual({ outcome: 'reproduced', damage: null, acts: read.length });
    const submitted = read.flatMap(({ message }) => (message?.type === 'SUBMIT' ? message.sequences : []));
    expect(submitted.length).toBe(2);
    for (const { prompt } of submitted) expect(prompt).toEqual(prompt.map(() => 0));
    expect(read.filter(({ message }) => message?.type === 'REQUEST_ENDED').length).toBe(2);
  });

  it('should leave a trace that is whole up to its last block when it is killed, and say that it is unfinished', async () => {
    const path = folder.file('killed.trace');
    const running = await serving('--record', path);
    const response = await running.ask({ prompt: 'The wolf', max_tokens: 900, ignore_eos: true, stream: true });
    const stream = response.body?.getReader();
    // Until a step is on the disk: every chunk is a token, and the blocks come behind.
    for (let chunk = await stream?.read(), size = 0; chunk?.done === false; chunk = await stream?.read()) {
      const last = size;
      size = statSync(path).size;
      if (size > last && hasStep(path)) break;
    }
    running.kill('SIGKILL');
    await stream?.cancel().catch(() => {});
    await running.ended;
    const { outcome, damage, acts, read } = await replay(path);
    expect({ outcome, acts }).toEqual({ outcome: 'incomplete', acts: read.length });
    expect(damage).toMatchObject({ kind: 'unfinished', byte: statSync(path).size });
    expect(read.some(isStepDone)).toBe(true);
    const told = await minipod(['replay', path, '--no-compute']);
    expect(told.code).toBe(3);
    expect(told.stdout + told.stderr).toMatch(/without its end mark: the run was killed/);
  });
});

describe('a disk that fails', () => {
  it('should cost the recording and no token: the run goes on, and a warning says what of the trace can be read', async () => {
    const path = folder.file('failed.trace');
    // Ignored, the signal of a file that grows too large leaves the error of the write.
    const [failed, whole] = await Promise.all([minipodUnder('trap "" XFSZ; ulimit -f 16; exec "$@"', [...GENERATE, '--record', path]), minipod(GENERATE)]);
    expect(failed.code).toBe(0);
    expect(failed.stderr).toMatch(/RecordingEnded: \S*failed\.trace: cannot be written at byte [\d,]+; its first [\d,]+ bytes can be read: .*too large/);
    expect(tokensOf(failed.stdout).map(({ length }) => length)).toEqual([150, 150, 150, 150]);
    expect(tokensOf(failed.stdout)).toEqual(tokensOf(whole.stdout));
    const [, bytes = ''] = /its first ([\d,]+) bytes/.exec(failed.stderr) ?? [];
    expect(statSync(path).size).toBe(Number(bytes.replaceAll(',', '')));
    expect(await replay(path)).toMatchObject({ outcome: 'incomplete', damage: { kind: 'unfinished' }, divergence: null });
  });
});
