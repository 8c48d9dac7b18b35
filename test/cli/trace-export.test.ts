/** `minipod trace export`: where it goes, what of a damaged trace is there, and what is never written over. */
import { copyFileSync, existsSync, readFileSync, statSync, truncateSync } from 'node:fs';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { decodeRecord, encodeRecord } from '../../src/trace/trace-codec.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { TraceWriter } from '../../src/trace/trace-writer.ts';
import { PAGE_ACTS_MAX } from '../../src/trace/views/page/data.ts';
import { traceFolder } from '../trace/files.ts';
import { recordVirtual } from '../trace/recorded-runs.ts';
import { runScript } from '../trace/stub-document.ts';
import { minipod } from './command.ts';
import { ask } from './trace-command.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());
const [run, short] = [folder.file('run.trace'), folder.file('short.trace')];
beforeAll(async () => {
  await recordVirtual(run);
  copyFileSync(run, short);
  truncateSync(short, 9_000);
});

type Trace = { readonly traceEvents: readonly object[]; readonly otherData: { readonly clock: string } };

describe('minipod trace export', () => {
  it('writes to standard output, or to a file that it does not write over unasked', async () => {
    const out = folder.file('run.json');
    const [printed, written] = await Promise.all([
      minipod(['trace', 'export', run, '--perfetto']),
      minipod(['trace', 'export', run, '--perfetto', '--out', out]),
    ]);
    expect([printed.code, printed.stderr, written.code, written.stdout, written.stderr]).toEqual([0, '', 0, '', '']);
    expect(readFileSync(out, 'utf8')).toBe(printed.stdout);
    const { traceEvents, otherData } = JSON.parse(printed.stdout) as Trace;
    expect(traceEvents.length).toBeGreaterThan(1_000);
    expect(otherData.clock).toBe('virtual');
    expect((await ask('export', run, '--mermaid', 'request/1', '--out', out)).error).toBe(`${out} exists; --overwrite replaces it`);
    expect((await ask('export', run, '--mermaid', '1', '--out', out, '--overwrite')).error).toBe('');
    expect(readFileSync(out, 'utf8')).toMatch(/^sequenceDiagram\n/);
  });

  it('never writes over the trace, and leaves no file where it fails', async () => {
    const before = statSync(run).size;
    expect((await ask('export', run, '--html', '--out', run, '--overwrite')).error).toContain('is the trace itself');
    expect(statSync(run).size).toBe(before);
    const out = folder.file('none.mmd');
    expect((await ask('export', run, '--mermaid', 'request/99', '--out', out)).error).toBe(
      `request/99 is not in ${run}; minipod trace explain ${run} --slowest says which are`,
    );
    expect(existsSync(out)).toBe(false);
    expect((await ask('export', run, '--html', '--out', folder.file('nowhere/x.html'))).error).toContain('ENOENT');
  });

  it('asks which form is meant, where none or two are', async () => {
    const none = await minipod(['trace', 'export', run]);
    expect([none.code, none.stderr]).toEqual([2, expect.stringContaining('say how: --perfetto, --html or --mermaid REQUEST')]);
    expect((await ask('export', run, '--perfetto', '--html')).error).toContain('cannot be used with');
  });

  it('of a run that was killed is what there is, said on standard error, and the exit code 3', async () => {
    const html = await minipod(['trace', 'export', short, '--html']);
    expect([html.code, html.stderr]).toEqual([3, expect.stringMatching(/the trace ends .*; what is before was exported\n$/)]);
    expect((await runScript(html.stdout)).get('damage').textContent).toMatch(/^the trace ends /);
    const events = await ask('export', short, '--perfetto');
    expect([events.code, events.error]).toEqual([3, '']);
    expect((JSON.parse(events.stdout) as Trace).traceEvents.length).toBeGreaterThan(100);
    const diagram = await ask('export', short, '--mermaid', 'request/1');
    expect([diagram.code, diagram.error]).toEqual([3, '']);
    expect(diagram.stdout).toMatch(/: SUBMIT\n[\s\S]*Note over p1: open after /);
  });

  it(`makes a page of the first ${PAGE_ACTS_MAX} acts, and says so, on the page too`, async () => {
    const long = folder.file('long.trace');
    using reader = TraceReader.open(run);
    const records = [...reader.records()].map(({ bytes }) => bytes);
    const last = decodeRecord(records.at(-1) as Uint8Array) as { number: number };
    {
      using writer = TraceWriter.create(long, reader.header);
      for (const record of records) writer.append(record);
      for (let more = 1; records.length + more <= PAGE_ACTS_MAX + 1; more++)
        writer.append(encodeRecord({ ...last, number: last.number + more, to: 'expert/1.1', message: { type: 'LOAD', tokens: 1 }, machine: null, cause: 0 }));
      writer.close();
    }
    const out = folder.file('long.html');
    expect(await ask('export', long, '--html', '--out', out)).toEqual({ code: 0, stdout: '', error: '' });
    const document = await runScript(readFileSync(out, 'utf8'));
    expect(document.get('damage').textContent).toContain('a page holds 200,000 acts, and this is the beginning; `minipod trace cut` makes a part');
    expect(document.get('facts').textContent).toContain('200,000 messages');
  });
});
