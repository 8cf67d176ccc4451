/** Charts as SVG text, each a file of its own if need be. Readable in grey: lines differ by dash and mark as well as by colour. */

export interface Line {
  readonly name: string;
  readonly points: readonly (readonly [x: number, y: number])[];
  readonly style: LineStyle;
  /** Values hold until the next point. */
  readonly steps?: boolean;
}

export interface LineStyle {
  readonly colour: string;
  readonly dash: string;
  readonly width: number;
  readonly mark: Mark;
}

/** Shapes around 0, 0. */
const marks = {
  none: "",
  disc: "M-3 0a3 3 0 1 0 6 0a3 3 0 1 0 -6 0z",
  square: "M-2.7 -2.7h5.4v5.4h-5.4z",
  triangle: "M0 -3.6L3.4 2.6H-3.4z",
  diamond: "M0 -3.8L3.8 0L0 3.8L-3.8 0z",
  cross: "M-3 -3L3 3M-3 3L3 -3",
  plus: "M-3.6 0H3.6M0 -3.6V3.6",
} as const;
export type Mark = keyof typeof marks;

export interface Axis {
  readonly label: string;
  readonly log?: boolean;
  readonly from?: number;
  readonly to?: number;
  readonly format?: (value: number) => string;
  /** Absent: round numbers. */
  readonly ticks?: readonly number[];
}

const width = 620;
const height = 330;
const left = 58;
const right = 140;
const top = 12;
const bottom = 44;
const marksPerLine = 7;

const look = "<style>text{font:11px system-ui,sans-serif;fill:#111}.grid{stroke:#dcdcdc}.axis{stroke:#111}</style>";

export function lineChart(title: string, x: Axis, y: Axis, lines: readonly Line[]): string {
  const xs = scaleOf(x, lines.flatMap((line) => line.points.map((point) => point[0])), left, width - right);
  const ys = scaleOf(y, lines.flatMap((line) => line.points.map((point) => point[1])), height - bottom, top);
  const parts = [
    ...axes(xs, ys, x, y, height),
    ...lines.map((line) =>
      `<path d="${pathOf(line, xs.at, ys.at)}" fill="none" ${stroke(line.style)}/>` + marksOf(line, xs.at, ys.at)
    ),
    ...lines.map((line, i) => legendEntry(line.name, line.style, top + 10 + i * 18)),
  ];
  return page(title, height, parts);
}

export interface DotRow {
  readonly name: string;
  /** One per column of the legend; absent ones are left out. */
  readonly values: readonly (number | undefined)[];
}

/** A line per row, a mark per value. */
export function dotChart(title: string, x: Axis, columns: readonly string[], rows: readonly DotRow[]): string {
  const indent = 170;
  const tall = bottom + top + 22 * rows.length;
  const xs = scaleOf(
    x,
    rows.flatMap((row) => row.values.filter((value) => value !== undefined)),
    indent,
    width - right,
  );
  const styles: readonly LineStyle[] = [
    { colour: "#111111", dash: "", width: 1.4, mark: "disc" },
    { colour: "#0b4fc4", dash: "", width: 1.4, mark: "diamond" },
  ];
  const parts = [
    ...xTicks(xs, x, tall),
    `<text x="${(indent + width - right) / 2}" y="${tall - 8}" text-anchor="middle">${escape(x.label)}</text>`,
    ...rows.flatMap(({ name, values }, r) => {
      const at = top + 11 + 22 * r;
      return [
        `<line class="grid" x1="${indent}" x2="${width - right}" y1="${at}" y2="${at}"/>`,
        `<text x="${indent - 8}" y="${at}" dy="0.35em" text-anchor="end">${escape(name)}</text>`,
        ...values.map((value, c) =>
          value === undefined ? "" : markAt(styles[c] as LineStyle, xs.at(value), at, c === 0)
        ),
      ];
    }),
    ...columns.map((name, c) => {
      const at = top + 11 + 18 * c;
      return markAt(styles[c] as LineStyle, width - right + 18, at, c === 0) +
        `<text x="${width - right + 28}" y="${at}" dy="0.35em">${escape(name)}</text>`;
    }),
  ];
  return page(title, tall, parts);
}

function page(title: string, tall: number, parts: readonly string[]): string {
  return `<svg viewBox="0 0 ${width} ${tall}" role="img" aria-label="${
    escape(title)
  }" xmlns="http://www.w3.org/2000/svg">${look}${parts.join("")}</svg>`;
}

function axes(xs: Scale, ys: Scale, x: Axis, y: Axis, tall: number): string[] {
  return [
    ...ys.ticks.map((value) => {
      const at = px(ys.at(value));
      return `<line class="grid" x1="${left}" x2="${width - right}" y1="${at}" y2="${at}"/>` +
        `<text x="${left - 6}" y="${at}" dy="0.35em" text-anchor="end">${(y.format ?? plainNumber)(value)}</text>`;
    }),
    ...xTicks(xs, x, tall),
    `<line class="axis" x1="${left}" x2="${width - right}" y1="${tall - bottom}" y2="${tall - bottom}"/>`,
    `<text x="${(left + width - right) / 2}" y="${tall - 8}" text-anchor="middle">${escape(x.label)}</text>`,
    `<text transform="translate(14 ${(top + tall - bottom) / 2}) rotate(-90)" text-anchor="middle">${
      escape(y.label)
    }</text>`,
  ];
}

function xTicks(xs: Scale, x: Axis, tall: number): string[] {
  return xs.ticks.map((value) => {
    const at = px(xs.at(value));
    return `<line class="grid" x1="${at}" x2="${at}" y1="${top}" y2="${tall - bottom}"/>` +
      `<line class="axis" x1="${at}" x2="${at}" y1="${tall - bottom}" y2="${tall - bottom + 4}"/>` +
      `<text x="${at}" y="${tall - bottom + 16}" text-anchor="middle">${(x.format ?? plainNumber)(value)}</text>`;
  });
}

function stroke({ colour, dash, width: thick }: LineStyle): string {
  return `stroke="${colour}" stroke-width="${thick}"${dash === "" ? "" : ` stroke-dasharray="${dash}"`}`;
}

function legendEntry(name: string, style: LineStyle, at: number): string {
  const from = width - right + 12;
  return `<line x1="${from}" x2="${from + 30}" y1="${at}" y2="${at}" ${stroke(style)}/>` +
    markAt(style, from + 15, at, false) + `<text x="${from + 36}" y="${at}" dy="0.35em">${escape(name)}</text>`;
}

function markAt({ mark, colour }: LineStyle, x: number, y: number, hollow: boolean): string {
  if (mark === "none") return "";
  const open = mark === "cross" || mark === "plus";
  return `<path transform="translate(${px(x)} ${px(y)})" d="${marks[mark]}" fill="${
    open ? "none" : hollow ? "#fff" : colour
  }" stroke="${colour}" stroke-width="1.3"/>`;
}

function marksOf({ points, style }: Line, x: (value: number) => number, y: (value: number) => number): string {
  if (style.mark === "none") return "";
  const every = Math.max(1, Math.round(points.length / marksPerLine));
  return points.filter((_, i) => i % every === Math.floor(every / 2)).map(([a, b]) => markAt(style, x(a), y(b), false))
    .join("");
}

function pathOf(line: Line, x: (value: number) => number, y: (value: number) => number): string {
  let path = "";
  line.points.forEach(([px_, py_], i) => {
    const [a, b] = [px(x(px_)), px(y(py_))];
    path += i === 0 ? `M${a} ${b}` : line.steps ? `H${a}V${b}` : `L${a} ${b}`;
  });
  return path;
}

interface Scale {
  readonly at: (value: number) => number;
  readonly ticks: readonly number[];
}

function scaleOf(axis: Axis, values: readonly number[], start: number, end: number): Scale {
  let from = axis.from ?? Math.min(...values);
  let to = axis.to ?? Math.max(...values);
  // A mark on the edge would be cut.
  if (axis.from !== undefined && axis.to === undefined && !axis.log) to += (to - from) * 0.03;
  if (axis.log) {
    from = Math.max(from, to * 1e-6, 1e-9);
    if (!(to > from)) to = from * 10;
    // Room beside the outermost values.
    const room = (to / from) ** 0.03;
    from /= room;
    to *= room;
    const span = Math.log(to / from);
    const at = (value: number) =>
      start + Math.max(0, Math.min(1, Math.log(Math.max(value, from) / from) / span)) * (end - start);
    return { at, ticks: logTicks(from, to) };
  }
  if (!(to > from)) to = from + 1;
  const at = (value: number) => start + Math.max(0, Math.min(1, (value - from) / (to - from))) * (end - start);
  return { at, ticks: axis.ticks ?? evenTicks(from, to) };
}

function logTicks(from: number, to: number): number[] {
  const factors = to / from > 1000 ? [1] : to / from > 12 ? [1, 2, 5] : [1, 1.5, 2, 3, 4, 5, 6, 8];
  const ticks: number[] = [];
  for (let power = Math.floor(Math.log10(from)); power <= Math.ceil(Math.log10(to)); power++) {
    for (const factor of factors) {
      const value = factor * 10 ** power;
      if (value >= from * 0.999 && value <= to * 1.001) ticks.push(value);
    }
  }
  return ticks;
}

function evenTicks(from: number, to: number): number[] {
  const rough = (to - from) / 5;
  const power = 10 ** Math.floor(Math.log10(rough));
  const step = power * ([1, 2, 5, 10].find((factor) => factor * power >= rough) ?? 10);
  const ticks: number[] = [];
  for (let i = Math.ceil(from / step - 1e-9); i * step <= to + step * 1e-9; i++) ticks.push(i * step);
  return ticks;
}

export function plainNumber(value: number): string {
  return String(Number(value.toPrecision(6)));
}

function px(value: number): string {
  return String(Math.round(value * 10) / 10);
}

export function escape(text: string): string {
  return text.replaceAll("&", "&amp;").replaceAll("<", "&lt;").replaceAll(">", "&gt;").replaceAll('"', "&quot;");
}
