/**
 * How the page looks, by day and by night.
 * @module
 */
export const PAGE_STYLE = `
:root {
  color-scheme: light dark;
  --paper: light-dark(#fcfbf8, #16171a); --card: light-dark(#f5f3ee, #1c1e22); --line: light-dark(#e4e0d7, #2c2f36);
  --ink: light-dark(#23211d, #e6e3dc); --soft: light-dark(#77726a, #949aa5); --faint: light-dark(#aaa499, #5d636e);
  --accent: light-dark(#b3352b, #ff8f7d); --hit: light-dark(#d1007a, #ff6fbd);
  --control: light-dark(#cfcac0, #4a4e57); --queued: light-dark(#e9bf4f, #c99a2c); --prefill: light-dark(#3f74c9, #6b9bea);
  --decode: light-dark(#3d9a7c, #58b898); --recompute: light-dark(#d5792f, #e5924d); --waiting: light-dark(#e6e2d9, #33363d);
  --preempted: light-dark(#cf5c66, #d96b76); --transferring: light-dark(#a58ad0, #8f78bd); --deferred: light-dark(#d9a3c4, #a8708f);
  --receiving: light-dark(#7a5bb8, #b198e6); --step: light-dark(#3d9a7c, #58b898);
  --text: "Inter", "Helvetica Neue", "Segoe UI", system-ui, sans-serif; --mono: ui-monospace, "SF Mono", "JetBrains Mono", "DejaVu Sans Mono", monospace;
  --serif: "Iowan Old Style", "Palatino Linotype", Palatino, Georgia, "DejaVu Serif", serif;
}
* { box-sizing: border-box; }
html, body { height: 100%; margin: 0; }
body { display: grid; grid-template: auto auto 1fr / 1fr 380px; background: var(--paper); color: var(--ink); font: 13px/1.5 var(--text); overflow: hidden; }
header { grid-column: 1 / 3; display: flex; align-items: end; gap: 32px; padding: 18px 24px 14px 16px; border-bottom: 1px solid var(--line); }
h1 { margin: 0; font: 500 25px/1.1 var(--serif); letter-spacing: -0.01em; }
#facts { margin: 5px 0 0; color: var(--soft); font-size: 12px; }
#facts span + span::before { content: "·"; margin: 0 7px; color: var(--faint); }
#damage { margin: 4px 0 0; color: var(--accent); font-size: 12px; }
form { margin-left: auto; display: flex; align-items: center; gap: 8px; }
#found { color: var(--soft); font: 12px var(--mono); min-width: 110px; text-align: right; white-space: nowrap; }
label { display: flex; align-items: center; gap: 8px; color: var(--soft); }
input { width: 300px; padding: 7px 11px; border: 1px solid var(--line); border-radius: 6px; background: var(--card); color: var(--ink); font: 13px var(--mono); }
input:focus { outline: 2px solid color-mix(in srgb, var(--accent) 45%, transparent); border-color: transparent; }
button { padding: 5px 10px; border: 1px solid var(--line); border-radius: 6px; background: none; color: inherit; font: inherit; cursor: pointer; }
button:hover { background: var(--card); }
#strip { grid-column: 1; position: relative; padding: 10px 0 10px 176px; border-bottom: 1px solid var(--line); height: 63px; }
#strip p { position: absolute; left: 16px; top: 12px; margin: 0; color: var(--soft); font-size: 11px; line-height: 1.45; }
canvas { display: block; width: 100%; height: 100%; touch-action: none; }
#lanes { cursor: default; } #lanes.dragged { cursor: grabbing; } #overview { cursor: ew-resize; }
main { grid-column: 1; min-height: 0; min-width: 0; position: relative; }
aside { grid-column: 2; grid-row: 2 / 4; border-left: 1px solid var(--line); background: var(--card); overflow: auto; padding: 16px 20px 40px; }
aside h2 { margin: 0 0 2px; font: 500 19px/1.25 var(--serif); } aside h3 { margin: 20px 0 6px; font: 600 11px var(--text); letter-spacing: .06em; text-transform: uppercase; color: var(--soft); }
aside p { margin: 0 0 8px; color: var(--soft); } aside code, pre { font: 12px/1.5 var(--mono); }
pre { margin: 6px 0 0; padding: 9px 11px; border: 1px solid var(--line); border-radius: 6px; background: var(--paper); white-space: pre-wrap; overflow-wrap: anywhere; }
ul { list-style: none; margin: 0; padding: 0; } li { display: grid; grid-template-columns: 92px 1fr; gap: 10px; padding: 4px 8px; margin: 0 -8px; border-radius: 5px; cursor: pointer; }
li:hover, li.on { background: color-mix(in srgb, var(--ink) 7%, transparent); }
li time { color: var(--soft); font: 11px/1.6 var(--mono); text-align: right; } li b { font: 600 12px/1.5 var(--mono); } li small { display: block; color: var(--soft); font: 11px/1.4 var(--mono); }
li i { display: inline-block; width: 8px; height: 8px; margin-right: 6px; border-radius: 2px; }
.legend { display: grid; grid-template-columns: 1fr 1fr; gap: 5px 12px; color: var(--ink); } .legend span::before { content: ""; display: inline-block; width: 11px; height: 11px; margin-right: 8px; border-radius: 2px; background: var(--c); vertical-align: -1px; }
dl { display: grid; grid-template-columns: auto 1fr; gap: 3px 14px; margin: 10px 0 0; } dt { color: var(--soft); } dd { margin: 0; font: 12px/1.6 var(--mono); }
kbd { padding: 1px 5px; border: 1px solid var(--line); border-bottom-width: 2px; border-radius: 4px; background: var(--paper); font: 11px var(--mono); }
#tip { position: fixed; z-index: 2; max-width: 440px; padding: 8px 12px; border: 1px solid var(--line); border-radius: 7px; background: var(--paper); box-shadow: 0 6px 24px rgb(0 0 0 / .14); pointer-events: none; font-size: 12px; }
#tip b { font: 600 12px var(--mono); } #tip small { display: block; color: var(--soft); font: 11px/1.45 var(--mono); overflow-wrap: anywhere; } #tip[hidden] { display: none; }
`;
