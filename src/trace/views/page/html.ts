/**
 * The page: one file that asks nothing of the network. Its functions are written into it by their own source text, which every runtime keeps.
 * @module
 */
import { deflateRawSync } from 'node:zlib';
import { type PageData, SLICE_KINDS } from './data.ts';
import { makeDrawing } from './drawing.ts';
import { makePanel } from './panel.ts';
import { runPage } from './script.ts';
import { PAGE_STYLE } from './style.ts';
import { openTimeline, timeText } from './timeline.ts';

export function pageHtml(data: PageData): string {
  const packed = deflateRawSync(JSON.stringify(data)).toString('base64');
  return `<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; style-src 'unsafe-inline'; script-src 'unsafe-inline'">
<meta name="viewport" content="width=device-width">
<title>minipod</title>
<style>${PAGE_STYLE}</style>
<body>
<header>
<div><h1 id="title"></h1><p id="facts"></p><p id="damage"></p></div>
<form id="form"><span id="found"></span><label>Search <input id="search" type="search" title="such as request/7 STEP decoding" autocomplete="off" spellcheck="false"></label><button type="button" id="all">Whole run</button></form>
</header>
<div id="strip"><p>Messages over<br>the whole run</p><canvas id="overview"></canvas></div>
<aside id="panel"></aside>
<main><canvas id="lanes"></canvas></main>
<div id="tip" hidden></div>
<script type="text/plain" id="data">${packed}</script>
<script>
${pageScript()}
</script>
</body>
</html>
`;
}

const pageScript = (): string =>
  `'use strict';\n(${runPage})({\nopenTimeline: ${openTimeline},\nmakeDrawing: ${makeDrawing},\nmakePanel: ${makePanel},\ntimeText: ${timeText},\nkinds: ${JSON.stringify(SLICE_KINDS)},\n});`;
