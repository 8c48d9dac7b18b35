/**
 * The page of a trace: its own script, as it stands in the page, without a browser; then the page in Chromium, where that is installed
 * (Debian's package `chromium`).
 */
import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { afterAll, beforeAll, describe, expect, it } from 'vitest';
import { actsOf } from '../../src/trace/acts.ts';
import { inCausalOrder } from '../../src/trace/causal-order.ts';
import { parseRunHeader } from '../../src/trace/run-header.ts';
import { TraceReader } from '../../src/trace/trace-reader.ts';
import { PageCollector, type PageData } from '../../src/trace/views/page/data.ts';
import { pageHtml } from '../../src/trace/views/page/html.ts';
import { openTimeline } from '../../src/trace/views/page/timeline.ts';
import { Browser, type BrowserPage, findChromium } from './browser.ts';
import { traceFolder } from './files.ts';
import { recordVirtual } from './recorded-runs.ts';
import { runScript } from './stub-document.ts';

const folder = traceFolder();
afterAll(() => folder[Symbol.dispose]());

let data: PageData;
let html: string;
beforeAll(async () => {
  const path = folder.file('page.trace');
  await recordVirtual(path);
  using reader = TraceReader.open(path);
  const collector = new PageCollector(parseRunHeader(reader.header, path));
  for (const traced of inCausalOrder(actsOf(reader))) collector.feed(traced);
  data = collector.end({ title: 'page.trace <b>', facts: ['virtual clock', 'seed 7'], damage: null });
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
    expect(chain.map(acts.type).slice(-4)).toEqual(['PLAN', 'ADMITTED', 'ADMIT', 'SUBMIT']);
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

const chromium = findChromium();

describe.skipIf(chromium === null)('the page in Chromium (skipped where it is not installed)', () => {
  let browser: Browser;
  let page: BrowserPage;
  beforeAll(async () => {
    const file = folder.file('page.html');
    writeFileSync(file, html);
    browser = await Browser.start(chromium ?? '');
    page = await browser.open(`${pathToFileURL(file)}#${encodeURIComponent('request/1 SUBMIT')}`);
  });
  afterAll(() => browser?.[Symbol.asyncDispose]());

  /** The colours at a lane's bar, as they are on the screen. */
  const colours = (y: number): Promise<number> =>
    page.ask(
      `(() => { const c = document.getElementById('lanes'), r = devicePixelRatio, line = c.getContext('2d').getImageData(180 * r, ${y} * r, c.width - 180 * r, 1).data; return new Set(Array.from({ length: line.length / 4 }, (_, i) => line.slice(4 * i, 4 * i + 3).join())).size; })()`,
    );
  const text = (id: string): Promise<string> => page.ask(`document.getElementById('${id}').innerText`);
  const frame = (): Promise<unknown> => page.ask('new Promise(requestAnimationFrame)');

  it('asks nothing of the network and throws nothing', async () => {
    expect(page.requests.filter((url) => !url.startsWith('file:'))).toEqual([]);
    expect(page.failures).toEqual([]);
    expect(await page.ask('document.title')).toBe('page.trace <b> · minipod');
  });

  it('paints lanes in the colours of phases', async () => {
    expect(Number(await page.ask('document.getElementById("lanes").dataset.slices'))).toBeGreaterThan(30);
    expect(await colours(26 + 34 + 12)).toBeGreaterThan(2);
    expect(await colours(26 + 34 + 3)).toBeLessThanOrEqual(3);
  });

  it('shows the message that its address names, and what came of it', async () => {
    expect(await text('found')).toBe('1 of 1');
    const shown = await text('panel');
    for (const part of ['SUBMIT', 'frontend/0', 'request/1', 'WHAT CAME OF IT', 'ADMIT']) expect(shown).toContain(part);
  });

  it('shows a step beside the mouse, keeps it in the panel at a click, and zooms with the wheel', async () => {
    const top: number = await page.ask('document.getElementById("lanes").getBoundingClientRect().top');
    const y = top + 26 + 34 + 12;
    await page.mouse('mouseMoved', 600, y);
    expect(await page.ask('document.getElementById("tip").hidden')).toBe(false);
    expect(await text('tip')).toMatch(/^step \d+: /);
    await page.click(600, y);
    expect(await text('panel')).toMatch(/^step \d+: [\s\S]*COMPUTED[\s\S]*MESSAGES MEANWHILE/);
    const before = Number(await page.ask('document.getElementById("lanes").dataset.slices'));
    for (let turn = 0; turn < 6; turn++) await page.mouse('mouseWheel', 600, y, { deltaX: 0, deltaY: -400, modifiers: 2 });
    await frame();
    await frame();
    expect(Number(await page.ask('document.getElementById("lanes").dataset.slices'))).toBeLessThan(before);
    expect(page.failures).toEqual([]);
  });
});
