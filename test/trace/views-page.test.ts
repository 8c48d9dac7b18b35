/** The page of a trace: its own script, as it stands in the page, without a browser. In a real one scripts/check-page.ts looks at it. */
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import type { PageData } from '../../src/trace/views/page/data.ts';
import { pageHtml } from '../../src/trace/views/page/html.ts';
import { openTimeline } from '../../src/trace/views/page/timeline.ts';
import { traceFolder } from './files.ts';
import { pageOfVirtualRun } from './page-of-run.ts';
import { runScript } from './stub-document.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

let data: PageData;
let html: string;
beforeAll(async () => {
  data = await pageOfVirtualRun(folder.file('page.trace'));
  html = pageHtml(data);
});

describe('what the page knows', () => {
  it('has a lane for each NPU and each choice, in this order, and every message in one', () => {
    const timeline = openTimeline(data);
    const names = timeline.lanes.map(({ name }) => name);
    expect(names.slice(0, 3)).toEqual(['npu/0', 'npu/1', 'npu/2']);
    expect(names.slice(3, 9)).toEqual([
      'request/1',
      'request/2 choice 0',
      'request/2 choice 1',
      'request/3 choice 0',
      'request/3 choice 1',
      'request/3 choice 2',
    ]);
    expect(timeline.lanes.reduce((sum, { acts }) => sum + acts.length, 0)).toBe(timeline.acts.count);
    expect(timeline.lanes.reduce((sum, { slices }) => sum + slices.length, 0)).toBe(timeline.slices.count);
    for (const { slices } of timeline.lanes)
      for (const [index, row] of slices.entries()) expect(timeline.slices.from(row)).toBeGreaterThanOrEqual(timeline.slices.to(slices[index - 1] ?? -1));
  });

  it('finds actors by their whole name, all else anywhere, and every word must match', () => {
    const { search, acts } = openTimeline(data);
    const found = search('request/1');
    expect(found.length).toBeGreaterThan(5);
    expect(found.every((row) => acts.from(row) === 'request/1' || acts.to(row) === 'request/1')).toBe(true);
    expect(search('request/1 submit').map(acts.type)).toEqual(['SUBMIT']);
    expect(search('launch').length).toBe(search('LAUNCH_DONE').length);
    expect(search('npu/0 LAUNCH_DONE request/1')).toEqual([]);
    expect(search('  ')).toEqual([]);
  });

  it('knows what led to a message, back to what came from outside, and what came of it', () => {
    const { search, acts, causesOf, consequencesOf } = openTimeline(data);
    const [step] = search('request/1 REQUEST_RUNNING');
    const chain = causesOf(step ?? -1);
    expect(chain.map(acts.type).slice(-5)).toEqual(['PLAN', 'ADMITTED', 'CHOICES_GRANTED', 'ADMIT', 'SUBMIT']);
    expect(consequencesOf(chain[0] ?? -1)).toContain(step);
  });

  it('finds the slice and the nearest message of a point in time', () => {
    const timeline = openTimeline(data);
    for (const place of [0, 3, 4]) {
      const { slices, acts } = timeline.lanes[place] ?? { slices: [], acts: [] };
      const [slice, act] = [slices[3] ?? -1, acts[2] ?? -1];
      expect(timeline.sliceAt(place, (timeline.slices.from(slice) + timeline.slices.to(slice)) / 2)).toBe(slice);
      expect(timeline.acts.time(timeline.actAt(place, timeline.acts.time(act), 1) ?? -1)).toBe(timeline.acts.time(act));
    }
    expect(timeline.actAt(0, timeline.last_us + 1e6, 10)).toBeNull();
  });
});

describe('the page’s own script, without a browser', () => {
  it('draws every lane that fits, and says what the run was', async () => {
    const document = await runScript(html);
    expect(document.body.dataset['ready']).toBe('true');
    expect(document.title).toBe('page.trace <b> · minipod');
    expect(document.get('facts').textContent).toBe('virtual clock seed 7');
    expect(Number(document.get('lanes').dataset['slices'])).toBeGreaterThan(30);
    expect(document.get('lanes').drawn['fillText']).toBeGreaterThan(10);
    expect(document.get('panel').textContent).toContain('prefill');
  });

  it('shows what was searched for, goes from one to the next, and forgets it again', async () => {
    const document = await runScript(html, `#${encodeURIComponent('request/3 JOB_DONE')}`);
    expect(document.get('found').textContent).toBe('1 of 1');
    expect(document.get('panel').textContent).toMatch(/JOB_DONE.*from job\/3 to request\/3.*Because of/);
    document.get('search').value = 'request/1';
    document.get('search').dispatch('input');
    expect(document.get('found').textContent).toMatch(/^\d+ messages$/);
    document.press('n');
    document.press('n');
    expect(document.get('found').textContent).toMatch(/^2 of \d+$/);
    document.get('search').value = '';
    document.get('search').dispatch('input');
    expect(document.get('found').textContent).toBe('');
  });

  it('zooms, pans and hovers', async () => {
    const document = await runScript(html);
    const canvas = document.get('lanes');
    const all = Number(canvas.dataset['slices']);
    for (let press = 0; press < 12; press++) document.press('w');
    expect(Number(canvas.dataset['slices'])).toBeLessThan(all);
    document.press('0');
    expect(Number(canvas.dataset['slices'])).toBeGreaterThanOrEqual(all - 2);
    canvas.dispatch('pointermove', { offsetX: 500, offsetY: 26 + 34 + 10, clientX: 500, clientY: 300 });
    expect(document.get('tip').hidden).toBe(false);
    expect(document.get('tip').textContent).toMatch(/step \d+: .*request\/\d+/);
  });

  it('is no more than the page: nothing is fetched, and no name can break out of it', () => {
    expect(html).not.toMatch(/\b(?:src|href)=|https?:|@import|url\(/);
    expect(html).toContain("default-src 'none'");
    expect(html.match(/<\/script>/g)).toHaveLength(2);
    expect(html).not.toContain('page.trace <b>');
  });
});
