/** Line charts as SVG text, readable in print: lines differ by dash as well as by colour. */

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
}

export interface Axis {
  readonly label: string;
  readonly log?: boolean;
  readonly from?: number;
  readonly to?: number;
  readonly format?: (value: number) => string;
}

const width = 620;
const height = 330;
const left = 58;
const right = 140;
const top = 12;
const bottom = 44;

export function lineChart(title: string, x: Axis, y: Axis, lines: readonly Line[]): string {
  const xs = scaleOf(x, lines.flatMap((line) => line.points.map((point) => point[0])), left, width - right);
  const ys = scaleOf(y, lines.flatMap((line) => line.points.map((point) => point[1])), height - bottom, top);
  const parts = [
    ...ys.ticks.map((value) => {
      const at = px(ys.at(value));
      return `<line class="grid" x1="${left}" x2="${width - right}" y1="${at}" y2="${at}"/>` +
        `<text x="${left - 6}" y="${at}" dy="0.35em" text-anchor="end">${(y.format ?? plainNumber)(value)}</text>`;
    }),
    ...xs.ticks.map((value) => {
      const at = px(xs.at(value));
      return `<line class="axis" x1="${at}" x2="${at}" y1="${height - bottom}" y2="${height - bottom + 4}"/>` +
        `<text x="${at}" y="${height - bottom + 16}" text-anchor="middle">${(x.format ?? plainNumber)(value)}</text>`;
    }),
    `<line class="axis" x1="${left}" x2="${width - right}" y1="${height - bottom}" y2="${height - bottom}"/>`,
    `<text x="${(left + width - right) / 2}" y="${height - 8}" text-anchor="middle">${escape(x.label)}</text>`,
    `<text transform="translate(14 ${(top + height - bottom) / 2}) rotate(-90)" text-anchor="middle">${
      escape(y.label)
    }</text>`,
    ...lines.map((line) =>
      `<path d="${
        pathOf(line, xs.at, ys.at)
      }" fill="none" stroke="${line.style.colour}" stroke-width="${line.style.width}" stroke-dasharray="${line.style.dash}"/>`
    ),
    ...lines.map((line, i) => {
      const at = top + 10 + i * 18;
      return `<line x1="${width - right + 12}" x2="${
        width - right + 40
      }" y1="${at}" y2="${at}" stroke="${line.style.colour}" stroke-width="${line.style.width}" stroke-dasharray="${line.style.dash}"/>` +
        `<text x="${width - right + 46}" y="${at}" dy="0.35em">${escape(line.name)}</text>`;
    }),
  ];
  return `<svg viewBox="0 0 ${width} ${height}" role="img" aria-label="${
    escape(title)
  }" xmlns="http://www.w3.org/2000/svg">${parts.join("")}</svg>`;
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
  if (axis.log) {
    from = Math.max(from, to * 1e-6, 1e-9);
    if (!(to > from)) to = from * 10;
    const span = Math.log(to / from);
    const at = (value: number) =>
      start + Math.max(0, Math.min(1, Math.log(Math.max(value, from) / from) / span)) * (end - start);
    return { at, ticks: logTicks(from, to) };
  }
  if (!(to > from)) to = from + 1;
  const at = (value: number) => start + Math.max(0, Math.min(1, (value - from) / (to - from))) * (end - start);
  return { at, ticks: evenTicks(from, to) };
}

function logTicks(from: number, to: number): number[] {
  const factors = to / from > 1000 ? [1] : [1, 2, 5];
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
