// The page's style sheet. Colours are variables, with a second set for dark screens.
#include "report/html/parts.h"

namespace quant::report {

namespace {

constexpr std::string_view kStyle = R"css(
:root {
  color-scheme: light dark;
  --bg: #f6f7f9; --card: #ffffff; --ink: #1a2230; --soft: #566073; --line: #dfe3ea; --grid: #e8ebf0;
  --accent: #2c5f9e; --warn: #8f4a00; --warn-bg: #fff5e6; --warn-line: #ecd0a4; --bar: #b5532f; --kept: #8f98a6;
  --k0: #3568b0; --k1: #b9582a; --k2: #2f8056; --k3: #8455b4; --k4: #94700f; --k5: #1f8797; --k6: #bf4269;
  --k7: #5d6675; --k8: #8a93a3;
  --h0: #f7f1ea; --h1: #f3dfca; --h2: #eac5a2; --h3: #dda678; --h4: #d0915f; --h5: #9c4f2b; --h6: #6f2d17;
  --h-low: #33271f; --h-high: #ffffff;
}
@media (prefers-color-scheme: dark) {
  :root {
    --bg: #12161d; --card: #1a202a; --ink: #e6eaf1; --soft: #9ba6b8; --line: #2d3645; --grid: #262e3b;
    --accent: #8cb8f0; --warn: #f0bd72; --warn-bg: #2a2317; --warn-line: #57472a; --bar: #dd7f58; --kept: #667184;
    --k0: #79a8ea; --k1: #e8925c; --k2: #6cc295; --k3: #b999e3; --k4: #d8b453; --k5: #5fc4d3; --k6: #ef86a8;
    --k7: #a5afbf; --k8: #7b8596;
    --h0: #202632; --h1: #3a2f2d; --h2: #573b2e; --h3: #7a4a31; --h4: #94542f; --h5: #d68a55; --h6: #f6bf90;
    --h-low: #e9e4df; --h-high: #1c120b;
  }
}
* { box-sizing: border-box; }
html { -webkit-text-size-adjust: 100%; }
body {
  margin: 0; background: var(--bg); color: var(--ink);
  font: 15px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, "Helvetica Neue", Arial, sans-serif;
  font-variant-numeric: tabular-nums;
}
main, header, footer { max-width: 1160px; margin: 0 auto; padding: 0 24px; }
header { padding-top: 36px; }
h1 { font-size: 28px; line-height: 1.2; margin: 2px 0 6px; letter-spacing: -.01em; overflow-wrap: anywhere; }
h2 { font-size: 17px; margin: 0 0 4px; letter-spacing: -.005em; }
p { margin: 0 0 10px; max-width: 76ch; }
a { color: var(--accent); text-decoration: none; }
a:hover { text-decoration: underline; }
:focus-visible { outline: 2px solid var(--accent); outline-offset: 2px; }
.eyebrow { margin: 0; color: var(--soft); font-size: 12px; font-weight: 600; letter-spacing: .08em;
  text-transform: uppercase; }
.facts { color: var(--soft); margin: 0; max-width: none; }
.facts span + span::before { content: "\00b7"; padding: 0 8px; }
.verdict { font-size: 18px; line-height: 1.45; margin: 20px 0 6px; max-width: 66ch; }
.context { color: var(--soft); margin: 0 0 22px; max-width: 84ch; }
.note { color: var(--soft); font-size: 13px; margin-bottom: 14px; }
.facts, .verdict, .context, .note, footer, option { overflow-wrap: anywhere; }
.name { font: 13px/1.45 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace;
  overflow-wrap: anywhere;
  unicode-bidi: isolate; }
section { background: var(--card); border: 1px solid var(--line); border-radius: 10px; padding: 20px 22px;
  margin: 0 0 18px;
  min-width: 0; }
.cards { display: grid; grid-template-columns: repeat(4, 1fr); gap: 0; background: var(--card);
  border: 1px solid var(--line); border-radius: 10px; margin: 0 0 18px; }
.card { padding: 16px 22px; border-left: 1px solid var(--line); min-width: 0; }
.card:first-child { border-left: 0; }
.card dt { color: var(--soft); font-size: 13px; }
.card dd { margin: 0; }
.big { font-size: 28px; font-weight: 600; line-height: 1.25; letter-spacing: -.02em; white-space: nowrap; }
.big small { font-size: 15px; font-weight: 500; color: var(--soft); letter-spacing: 0; }
.card .sub { color: var(--soft); font-size: 13px; line-height: 1.4; }
.pair { display: grid; grid-template-columns: minmax(0, 1fr) minmax(0, 1fr); gap: 18px; align-items: start; }
.pair > div { display: grid; gap: 18px; min-width: 0; }
.pair section { margin: 0; }
.pair { margin-bottom: 18px; }
.scroll { overflow-x: auto; }
.wide svg { min-width: 720px; }
svg { display: block; width: 100%; height: auto; }
svg.small { max-width: 560px; }
svg text { fill: var(--soft); font: 12px system-ui, -apple-system, "Segoe UI", Roboto, Arial, sans-serif;
  font-variant-numeric: tabular-nums; }
.grid { stroke: var(--grid); stroke-width: 1; }
.axis { stroke: var(--line); stroke-width: 1; }
.mean { stroke: var(--ink); stroke-width: 1; stroke-dasharray: 4 4; opacity: .6; }
svg text.strong { fill: var(--ink); }
.spread { stroke-width: 1; opacity: .45; }
.trace { fill: none; stroke-width: 1.5; opacity: .75; }
.k0 { fill: var(--k0); stroke: var(--k0); } .k1 { fill: var(--k1); stroke: var(--k1); }
.k2 { fill: var(--k2); stroke: var(--k2); } .k3 { fill: var(--k3); stroke: var(--k3); }
.k4 { fill: var(--k4); stroke: var(--k4); } .k5 { fill: var(--k5); stroke: var(--k5); }
.k6 { fill: var(--k6); stroke: var(--k6); } .k7 { fill: var(--k7); stroke: var(--k7); }
.k8 { fill: var(--k8); stroke: var(--k8); } .kept { fill: var(--kept); }
.trace[class] { fill: none; }
.bars rect { stroke: none; }
.column { fill: var(--accent); }
.worst-bar { fill: var(--bar); }
.legend { display: flex; flex-wrap: wrap; gap: 4px 18px; list-style: none; margin: 10px 0 0; padding: 0;
  font-size: 13px; }
.legend li { display: flex; align-items: center; gap: 6px; min-width: 0; overflow-wrap: anywhere; }
.swatch { width: 12px; height: 12px; flex: none; display: inline-block; vertical-align: -1px; }
.stack { margin: 12px 0 16px; }
.stack p { display: flex; justify-content: space-between; margin: 0 0 3px; max-width: none; }
.stack svg { height: 26px; border-radius: 3px; margin-bottom: 10px; background: var(--grid); }
table { border-collapse: collapse; width: 100%; font-size: 13px; }
th, td { padding: 5px 10px; text-align: left; vertical-align: baseline; border-bottom: 1px solid var(--grid); }
th { font-weight: 600; color: var(--soft); }
thead th { border-bottom-color: var(--line); white-space: nowrap; }
tbody th { color: var(--ink); font-weight: 400; }
tbody tr:last-child > * { border-bottom: 0; }
.kinds th, .kinds td { white-space: nowrap; }
.kinds wbr { display: none; }
.skips td:last-child { min-width: 28ch; }
.worst td { vertical-align: middle; }
.worst .name { font-size: 12px; }
.n { text-align: right; white-space: nowrap; }
.nowrap { white-space: nowrap; }
td.bar { width: 15%; min-width: 56px; vertical-align: middle; }
td.bar svg { height: 10px; }
.tall { max-height: 78vh; overflow: auto; margin: 0 -22px -20px; border-top: 1px solid var(--line);
  border-radius: 0 0 10px 10px; }
.tall table { width: 100%; }
.tall th:first-child, .tall td:first-child { padding-left: 22px; }
.tall thead th { position: sticky; top: 0; background: var(--card); z-index: 1;
  box-shadow: inset 0 -1px var(--line); }
#layers th, #layers td { padding-left: 7px; padding-right: 7px; }
.tall tbody tr:hover { background: var(--bg); }
.tall tbody tr:target { background: var(--warn-bg); }
.tall tbody tr { scroll-margin-top: 48px; }
#layers td, #layers th[scope=row] { white-space: nowrap; }
#layers td.notes { white-space: normal; min-width: 36ch; }
th button { font: inherit; color: inherit; background: none; border: 0; padding: 0; margin: 0; cursor: pointer; }
th button::after { content: "\2195"; opacity: .35; padding-left: 4px; }
th[aria-sort] button { color: var(--ink); }
th[aria-sort=ascending] button::after { content: "\2191"; opacity: 1; }
th[aria-sort=descending] button::after { content: "\2193"; opacity: 1; }
.filters { display: flex; flex-wrap: wrap; gap: 10px; align-items: center; margin: 0 0 14px; font-size: 13px; }
.filters[hidden] { display: none; }
.filters input, .filters select { font: inherit; color: inherit; background: var(--bg); border: 1px solid var(--line);
  border-radius: 6px; padding: 6px 9px; min-width: 0; max-width: 100%; }
.filters input { flex: 0 1 300px; }
.filters output { color: var(--soft); }
.heat { table-layout: fixed; border-collapse: separate; border-spacing: 1px; min-width: 0; }
.heat th, .heat td { border: 0; padding: 0; }
.heat thead th { font-size: 11px; vertical-align: bottom; white-space: normal; overflow-wrap: anywhere;
  text-align: center;
  padding: 0 1px 4px; line-height: 1.2; }
.heat th:first-child { width: 46px; white-space: nowrap; overflow-wrap: normal; text-align: right;
  padding-right: 8px; color: var(--soft); font-size: 12px; }
.heat td { text-align: center; font-size: 12px; line-height: 20px; height: 20px; }
.heat td a { display: block; color: inherit; }
.h0, .h1, .h2, .h3, .h4 { color: var(--h-low); } .h5, .h6 { color: var(--h-high); }
.h0 { background: var(--h0); } .h1 { background: var(--h1); } .h2 { background: var(--h2); } .h3 {
  background: var(--h3); }
.h4 { background: var(--h4); } .h5 { background: var(--h5); } .h6 { background: var(--h6); }
.scale { display: flex; align-items: center; gap: 8px; margin: 12px 0 0; font-size: 13px; color: var(--soft); }
.scale i { display: block; width: 22px; height: 12px; }
.scale span { display: flex; }
.remarks { border-color: var(--warn-line); background: var(--warn-bg); }
.remarks h2 { color: var(--warn); }
.remarks ul { margin: 6px 0 0; padding-left: 20px; }
.remarks li { margin: 2px 0; overflow-wrap: anywhere; }
summary { cursor: pointer; color: var(--accent); }
details { margin: 4px 0; }
details.inner summary { font-size: 13px; }
details ul { margin: 6px 0; padding-left: 18px; }
pre { background: var(--bg); border: 1px solid var(--line); border-radius: 6px; padding: 12px 14px; overflow: auto;
  margin: 10px 0 0;
  font: 12.5px/1.5 ui-monospace, SFMono-Regular, Menlo, Consolas, "DejaVu Sans Mono", monospace; max-height: 60vh;
    tab-size: 2; }
.identity { display: grid; grid-template-columns: max-content minmax(0, 1fr); gap: 4px 20px; margin: 8px 0 14px;
  font-size: 14px; }
.identity dt { color: var(--soft); }
.identity dd { margin: 0; overflow-wrap: anywhere; }
footer { color: var(--soft); font-size: 13px; padding-bottom: 40px; }
@media (max-width: 900px) {
  .pair { grid-template-columns: minmax(0, 1fr); }
  .cards { grid-template-columns: 1fr 1fr; }
  .card:nth-child(odd) { border-left: 0; }
  .card:nth-child(n+3) { border-top: 1px solid var(--line); }
}
@media (max-width: 560px) {
  main, header, footer { padding-left: 14px; padding-right: 14px; }
  header { padding-top: 22px; }
  h1 { font-size: 23px; }
  .verdict { font-size: 16px; }
  section { padding: 16px 14px; }
  .card { padding: 12px 14px; }
  .big { font-size: 22px; }
  .tall { margin: 0 -14px -16px; }
  .tall th:first-child, .tall td:first-child { padding-left: 14px; }
  .identity { grid-template-columns: minmax(0, 1fr); gap: 0; }
  .identity dd { margin-bottom: 8px; }
  th, td { padding: 5px 7px; }
  .heat th, .heat td { padding: 0; }
}
@media print {
  :root {
    color-scheme: light;
    --bg: #ffffff; --card: #ffffff; --ink: #000000; --soft: #3c4450; --line: #b9c0cb; --grid: #dde1e8;
      --accent: #1f4d86;
    --warn: #6b3800; --warn-bg: #ffffff; --warn-line: #b9925c; --bar: #b5532f; --kept: #8f98a6;
    --k0: #3568b0; --k1: #b9582a; --k2: #2f8056; --k3: #8455b4; --k4: #94700f; --k5: #1f8797; --k6: #bf4269;
      --k7: #5d6675;
    --k8: #8a93a3; --h0: #f7f1ea; --h1: #f3dfca; --h2: #eac5a2; --h3: #dda678; --h4: #d0915f; --h5: #9c4f2b;
      --h6: #6f2d17;
    --h-low: #33271f; --h-high: #ffffff;
  }
  body { font-size: 10pt; }
  main, header, footer { max-width: none; padding: 0; }
  section, .cards { border-radius: 0; break-inside: avoid; }
  section.long { break-inside: auto; }
  .tall { max-height: none; overflow: visible; margin: 0; border: 0; }
  .tall thead th { position: static; }
  .wide svg { min-width: 0; }
  #layers, #layers .name { font-size: 6.5pt; }
  #layers td, #layers th { padding: 1.5px 3px; }
  #layers th[scope=row] { white-space: normal; min-width: 27ch; }
  .scroll { overflow: visible; }
  .kinds, .kinds .name { font-size: 7.5pt; }
  #layers tr > :nth-child(12), #layers tr > :nth-child(14) { display: none; }
  .filters { display: none; }
  pre { max-height: none; white-space: pre-wrap; }
  .heat td, .swatch, .scale i, svg { -webkit-print-color-adjust: exact; print-color-adjust: exact; }
  th button::after { content: ""; }
  a { color: inherit; }
}
)css";

}  // namespace

std::string_view page_style() { return kStyle; }

}  // namespace quant::report
