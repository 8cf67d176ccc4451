/** A line chart as SVG. Lines differ by dash and mark as well as by colour, so that they can be told apart in print. */

import { escape } from "./html.ts";
import type { Chart } from "./schema.ts";
import { figure } from "./statistics.ts";

const WIDTH = 660;
const HEIGHT = 340;
const LEFT = 58;
const RIGHT = 120;
const TOP = 12;
const BOTTOM = 42;
const LABEL = 14;

const looks: readonly { colour: string; dash: string; mark: (x: string, y: string) => string }[] = [
  { colour: "#1f4e9c", dash: "", mark: (x, y) => `<circle cx="${x}" cy="${y}" r="3.5"/>` },
  {
    colour: "#b3541e",
    dash: "7 3",
    mark: (x, y) => `<rect x="${minus(x, 3.2)}" y="${minus(y, 3.2)}" width="6.4" height="6.4"/>`,
  },
  {
    colour: "#0a6b2d",
    dash: "2 3",
    mark: (x, y) => `<path d="M${x} ${minus(y, 4.4)}l4.2 7.4h-8.4z"/>`,
  },
  {
    colour: "#7a2a86",
    dash: "9 3 2 3",
    mark: (x, y) => `<path d="M${x} ${minus(y, 4.6)}l4.6 4.6l-4.6 4.6l-4.6-4.6z"/>`,
  },
];

export function chartOf({ title, x, y, log, lines }: Chart): string {
  const points = lines.flatMap((line) => line.points);
  const across = scale(points.map((point) => point[0]), log, LEFT, WIDTH - RIGHT);
  const up = scale(points.map((point) => point[1]), log, HEIGHT - BOTTOM, TOP);
  const ends = spread(lines.map((line) => up.at(line.points.at(-1)![1])));
  const grid = [
    ...across.ticks.map((value) =>
      `<line class="grid" x1="${n(across.at(value))}" y1="${TOP}" x2="${n(across.at(value))}" y2="${
        HEIGHT - BOTTOM
      }"/>` +
      `<text x="${n(across.at(value))}" y="${HEIGHT - BOTTOM + 16}" text-anchor="middle">${figure(value)}</text>`
    ),
    ...up.ticks.map((value) =>
      `<line class="grid" x1="${LEFT}" y1="${n(up.at(value))}" x2="${WIDTH - RIGHT}" y2="${n(up.at(value))}"/>` +
      `<text x="${LEFT - 7}" y="${n(up.at(value) + 4)}" text-anchor="end">${figure(value)}</text>`
    ),
  ];
  let next = 0;
  const drawn = lines.map((line, i) => {
    const look = line.dashed ? { colour: "#5b636d", dash: "1 4", mark: () => "" } : looks[next++ % looks.length]!;
    const at = line.points.map(([px, py]) => [n(across.at(px)), n(up.at(py))] as const);
    const dash = look.dash === "" ? "" : ` stroke-dasharray="${look.dash}"`;
    return `<g stroke="${look.colour}"><path class="line"${dash} d="M${at.map((p) => p.join(" ")).join("L")}"/></g>` +
      `<g fill="${look.colour}">${at.map(([px, py]) => look.mark(px, py)).join("")}</g>` +
      `<text x="${WIDTH - RIGHT + 10}" y="${n(ends[i]! + 4)}" style="fill:${look.colour}">${escape(line.name)}</text>`;
  });
  return `<figure>
<figcaption>${escape(title)}</figcaption>
<svg viewBox="0 0 ${WIDTH} ${HEIGHT}" role="img" aria-label="${escape(title)}">
${grid.join("\n")}
<path class="axis" fill="none" d="M${LEFT} ${TOP}V${HEIGHT - BOTTOM}H${WIDTH - RIGHT}"/>
<text x="${(LEFT + WIDTH - RIGHT) / 2}" y="${HEIGHT - 6}" text-anchor="middle">${escape(x)}${
    log ? " (log scale)" : ""
  }</text>
<text x="14" y="${(TOP + HEIGHT - BOTTOM) / 2}" text-anchor="middle" transform="rotate(-90 14 ${
    (TOP + HEIGHT - BOTTOM) / 2
  })">${escape(y)}${log ? " (log scale)" : ""}</text>
${drawn.join("\n")}
</svg>
</figure>`;
}

/** Two decimals are a hundredth of a pixel, and keep the page's bytes stable. */
const n = (value: number) => String(Number(value.toFixed(2)));
const minus = (text: string, value: number) => n(Number(text) - value);

function scale(values: readonly number[], log: boolean, from: number, to: number) {
  const of = (value: number) => log ? Math.log10(value) : value;
  const least = Math.min(...values);
  const most = Math.max(...values);
  const [low, high] = log ? [Math.floor(of(least) + 1e-9), Math.ceil(of(most) - 1e-9)] : [0, most];
  const span = high - low || 1;
  const ticks = log
    ? Array.from({ length: span + 1 }, (_, i) => 10 ** (low + i))
    : Array.from({ length: 5 }, (_, i) => low + span * i / 4);
  return { ticks, at: (value: number) => from + (of(value) - low) / span * (to - from) };
}

/** Label heights moved apart, in the order of the lines' ends. */
function spread(heights: readonly number[]): number[] {
  const order = heights.map((_, i) => i).sort((a, b) => heights[a]! - heights[b]!);
  const placed = [...heights];
  order.forEach((i, at) => {
    const above = order[at - 1];
    if (above !== undefined) placed[i] = Math.max(placed[i]!, placed[above]! + LABEL);
  });
  const over = Math.max(0, Math.max(...placed) - (HEIGHT - BOTTOM));
  return placed.map((height) => height - over);
}
