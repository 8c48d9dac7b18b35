/**
 * The page of a trace in a real browser: records a virtual run, opens its page in Chromium (`chromium` on the PATH, Debian's package) without a screen,
 * and looks at pixels, panel, mouse and network. Exits with 1 if anything is not as it must be.
 *
 * @example
 * node scripts/check-page.ts
 * @module
 */
import assert from 'node:assert/strict';
import { writeFileSync } from 'node:fs';
import { pathToFileURL } from 'node:url';
import { pageHtml } from '../src/trace/views/page/html.ts';
import { traceFolder } from '../test/trace/files.ts';
import { pageOfVirtualRun } from '../test/trace/page-of-run.ts';
import { Browser, type BrowserPage, findChromium } from './chromium.ts';

/** Of the page, in CSS pixels: where lanes begin, and how tall one is. */
const [AXIS, LANE] = [26, 34];
/** Through the bars of the second lane, and above them. */
const [BARS, MARGIN] = [AXIS + LANE + 12, AXIS + LANE + 3];
const GUTTER = 180;

const text = (page: BrowserPage, id: string): Promise<string> => page.ask(`document.getElementById('${id}').innerText`);
const slicesOf = async (page: BrowserPage): Promise<number> => Number(await page.ask('document.getElementById("lanes").dataset.slices'));

/** How many colours there are along a line of the lanes, as they are on the screen. */
const coloursAt = (page: BrowserPage, y: number): Promise<number> =>
  page.ask(`(() => {
    const canvas = document.getElementById('lanes'), ratio = devicePixelRatio;
    const { data } = canvas.getContext('2d').getImageData(${GUTTER} * ratio, ${y} * ratio, canvas.width - ${GUTTER} * ratio, 1);
    return new Set(Array.from({ length: data.length / 4 }, (_, at) => data.slice(4 * at, 4 * at + 3).join())).size;
  })()`);

const CHECKS: { readonly [promise: string]: (page: BrowserPage) => Promise<void> } = {
  async 'asks nothing of the network and throws nothing'(page) {
    const foreign = page.requests.filter((url) => !url.startsWith('file:'));
    assert.deepEqual({ foreign, failures: page.failures }, { foreign: [], failures: [] });
    assert.equal(await page.ask('document.title'), 'page.trace <b> · minipod');
  },
  async 'paints lanes in the colours of phases'(page) {
    assert.ok((await slicesOf(page)) > 30, 'there are bars');
    assert.ok((await coloursAt(page, BARS)) > 2, 'of several colours');
    assert.ok((await coloursAt(page, MARGIN)) <= 3, 'and nothing above them');
  },
  async 'shows the message that its address names, and what came of it'(page) {
    assert.equal(await text(page, 'found'), '1 of 1');
    const shown = await text(page, 'panel');
    for (const part of ['SUBMIT', 'frontend/0', 'request/1', 'WHAT CAME OF IT', 'ADMIT']) assert.ok(shown.includes(part), `the panel has no ${part}: ${shown}`);
  },
  async 'shows a step beside the mouse, keeps it in the panel at a click, and zooms with the wheel'(page) {
    const y = (await page.ask<number>('document.getElementById("lanes").getBoundingClientRect().top')) + BARS;
    await page.mouse('mouseMoved', 600, y);
    assert.equal(await page.ask('document.getElementById("tip").hidden'), false);
    assert.match(await text(page, 'tip'), /^step \d+: /);
    await page.click(600, y);
    assert.match(await text(page, 'panel'), /^step \d+: [\s\S]*COMPUTED[\s\S]*MESSAGES MEANWHILE/);
    const before = await slicesOf(page);
    for (let turn = 0; turn < 6; turn++) await page.mouse('mouseWheel', 600, y, { deltaX: 0, deltaY: -400, modifiers: 2 });
    for (let frame = 0; frame < 2; frame++) await page.ask('new Promise(requestAnimationFrame)');
    assert.ok((await slicesOf(page)) < before, 'fewer bars are seen from nearer');
    assert.deepEqual(page.failures, []);
  },
};

const chromium = findChromium();
if (chromium === null) {
  console.error('check-page: there is no chromium, chromium-browser or google-chrome on the PATH; install one of them (Debian: apt install chromium)');
  process.exit(1);
}
using folder = traceFolder();
const file = folder.file('page.html');
writeFileSync(file, pageHtml(await pageOfVirtualRun(folder.file('page.trace'))));
await using browser = await Browser.start(chromium);
const page = await browser.open(`${pathToFileURL(file)}#${encodeURIComponent('request/1 SUBMIT')}`);
let failed = 0;
for (const [promise, check] of Object.entries(CHECKS)) {
  const complaint = await check(page).then(
    () => null,
    (error: Error) => error.message,
  );
  if (complaint !== null) failed++;
  console.log(`${complaint === null ? 'ok    ' : 'FAILED'} ${promise}${complaint === null ? '' : `: ${complaint}`}`);
}
process.exitCode = failed === 0 ? 0 : 1;
