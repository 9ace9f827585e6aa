/**
 * Line charts as SVG. d3-scale chooses ticks and d3-shape draws paths; both are pure functions on numbers and
 * strings, where the larger plotting libraries want a DOM or tens of megabytes.
 */
import { scaleLinear, scaleLog } from 'd3-scale';
import { area, line } from 'd3-shape';
import { escapeXml, fontFamily, svgToPng, textWidth } from './raster.ts';

export interface Series {
  readonly name: string;
  readonly y: ArrayLike<number>;
  /** Default 0, 1, 2, ... */
  readonly x?: ArrayLike<number>;
  /** Limits of a shaded band around the line, as many as `y`. */
  readonly band?: { readonly low: ArrayLike<number>; readonly high: ArrayLike<number> };
  /** Any CSS colour; default the next of a palette that colour-blind people can tell apart. */
  readonly color?: string;
  readonly dashed?: boolean;
}

/** A dashed level across the panel, such as the value that the theory wants. */
export interface Reference {
  readonly y: number;
  readonly label?: string;
}

export interface Panel {
  readonly title?: string;
  readonly xLabel?: string;
  readonly yLabel?: string;
  readonly series: readonly Series[];
  readonly references?: readonly Reference[];
  /** On a logarithmic axis, values of 0 or less leave gaps. */
  readonly yScale?: 'linear' | 'log';
  /** Limits of the axis; default those of the data, rounded. */
  readonly yDomain?: readonly [number, number];
}

export interface Chart {
  readonly title?: string;
  readonly subtitle?: string;
  readonly panels: readonly Panel[];
  /** Panels side by side; default all, up to 3. */
  readonly columns?: number;
  /** Of one panel, in units of the SVG; default 400 x 280. */
  readonly width?: number;
  readonly height?: number;
}

/** Okabe and Ito's palette without its yellow, which is too light for lines. */
const palette = ['#0072b2', '#d55e00', '#009e73', '#cc79a7', '#56b4e9', '#e69f00', '#555555'];
const ink = '#24292f';
const muted = '#57606a';
const faint = '#e6e8eb';
const outer = 20;
const gap = 28;

/** Draws a chart. Values that are not finite, or of more than 100 digits, leave gaps. */
export function lineChart(chart: Chart): string {
  const { panels, columns = Math.min(3, panels.length), width = 400, height = 280 } = chart;
  const rows = Math.ceil(panels.length / columns);
  const head = (chart.title ? 34 : 0) + (chart.subtitle ? 26 : 0);
  const header = [textWidth(chart.title ?? '', 18), textWidth(chart.subtitle ?? '', 13)];
  const fullWidth = Math.ceil(Math.max(columns * width + (columns - 1) * gap, ...header) + 2 * outer);
  const fullHeight = rows * height + (rows - 1) * gap + head + 2 * outer;
  const parts: string[] = [`<rect width="100%" height="100%" fill="white"/>`];
  if (chart.title)
    parts.push(label(outer, outer + 15, chart.title, `font-size="18" font-weight="600" fill="${ink}"`));
  if (chart.subtitle)
    parts.push(label(outer, outer + head - 20, chart.subtitle, `font-size="13" fill="${muted}"`));
  panels.forEach((panel, i) => {
    const x = outer + (i % columns) * (width + gap);
    const y = outer + head + Math.floor(i / columns) * (height + gap);
    parts.push(`<g transform="translate(${x},${y})">${drawPanel(panel, width, height, `panel-${i}`)}</g>`);
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${fullWidth}" height="${fullHeight}" viewBox="0 0 ${fullWidth} ${fullHeight}" font-family="${fontFamily}">\n${parts.join('\n')}\n</svg>\n`;
}

/** The same as a PNG. @param scale pixels per unit */
export function chartToPng(chart: Chart, scale = 2): Promise<Uint8Array> {
  return svgToPng(lineChart(chart), scale);
}

function drawPanel(panel: Panel, width: number, height: number, id: string): string {
  const right = width - 8;
  const log = panel.yScale === 'log';
  // Near the ends of the range of doubles, rounding the limits would make them infinite or zero.
  const usable = (value: number) => Math.abs(value) < 1e100 && (!log || value > 1e-100);
  if (panel.yDomain && !panel.yDomain.every(usable))
    throw new RangeError(`chart: no axis from ${panel.yDomain.join(' to ')}`);
  const references = panel.references ?? [];
  const curves = panel.series.map((series, i) => ({
    ...series,
    color: series.color ?? (palette[i % palette.length] as string),
    xs: series.x ?? Array.from({ length: series.y.length }, (_, at) => at),
  }));
  const [xLow, xHigh] = extent(
    curves.map((curve) => curve.xs),
    Number.isFinite,
  ) ?? [0, 1];
  const found = extent(
    [
      ...curves.flatMap((curve) => [curve.y, curve.band?.low ?? [], curve.band?.high ?? []]),
      references.map((r) => r.y),
    ],
    usable,
  );
  const [yLow, yHigh] = panel.yDomain ?? widened(found ?? (log ? [0.1, 1] : [0, 1]), log);
  const legend = curves.length > 1 ? legendLines(curves, width - 60) : [];
  const top = (panel.title ? 22 : 0) + 20 * legend.length + 8;
  const bottom = height - (panel.xLabel ? 44 : 24);

  const y = (log ? scaleLog() : scaleLinear()).domain([yLow, yHigh]).range([bottom, top]);
  const wantedTicks = Math.max(2, Math.round((bottom - top) / 40));
  if (!panel.yDomain) y.nice(wantedTicks);
  const yTicks = log ? decades(y.domain() as [number, number], wantedTicks) : y.ticks(wantedTicks);
  const yTexts = yTicks.map(tickText(yTicks, log));
  const left = Math.ceil(
    Math.max(...yTexts.map((text) => textWidth(text, 11))) + 10 + (panel.yLabel ? 20 : 0),
  );
  const x = scaleLinear()
    .domain(xLow === xHigh ? [xLow - 0.5, xHigh + 0.5] : [xLow, xHigh])
    .range([left, right]);
  // Counts such as iterations have no halves.
  const counts = curves.every((curve) => Array.prototype.every.call(curve.xs, Number.isInteger));
  const xTicks = x
    .ticks(Math.max(2, Math.round((right - left) / 70)))
    .filter((tick) => !counts || Number.isInteger(tick));
  const xTexts = xTicks.map(tickText(xTicks, false));

  const parts: string[] = [];
  if (panel.title) parts.push(label(left, 12, panel.title, `font-size="14" font-weight="600" fill="${ink}"`));
  legend.forEach((entries, row) => {
    // One text element a line: its spans follow each other, so no widths have to be known.
    const spans = entries.map(
      ({ name, color, dashed }, i) =>
        `<tspan fill="${escapeXml(color)}" font-weight="600"${i > 0 ? ' dx="16"' : ''}>${dashed ? '- -' : '—'}</tspan><tspan dx="5" fill="${ink}">${escapeXml(name)}</tspan>`,
    );
    parts.push(
      `<text x="${left}" y="${(panel.title ? 32 : 12) + 20 * row}" font-size="12">${spans.join('')}</text>`,
    );
  });
  yTicks.forEach((tick, i) => {
    const at = round(y(tick));
    parts.push(`<path d="M${left},${at}H${right}" stroke="${faint}"/>`);
    parts.push(
      label(left - 7, at + 4, yTexts[i] as string, `text-anchor="end" font-size="11" fill="${muted}"`),
    );
  });
  xTicks.forEach((tick, i) => {
    const at = round(x(tick));
    parts.push(`<path d="M${at},${bottom}v5" stroke="${muted}"/>`);
    parts.push(
      label(at, bottom + 18, xTexts[i] as string, `text-anchor="middle" font-size="11" fill="${muted}"`),
    );
  });
  parts.push(`<path d="M${left},${bottom}H${right}" stroke="${muted}"/>`);
  if (panel.xLabel) {
    parts.push(
      label(
        (left + right) / 2,
        bottom + 37,
        panel.xLabel,
        `text-anchor="middle" font-size="12" fill="${ink}"`,
      ),
    );
  }
  if (panel.yLabel) {
    const middle = (top + bottom) / 2;
    parts.push(
      label(
        11,
        middle,
        panel.yLabel,
        `text-anchor="middle" font-size="12" fill="${ink}" transform="rotate(-90 11 ${middle})"`,
      ),
    );
  }

  // A given domain may cut lines off: they must not run over the frame.
  parts.push(
    `<clipPath id="${id}"><rect x="${left - 3}" y="${top - 2}" width="${right - left + 6}" height="${bottom - top + 4}"/></clipPath>`,
    `<g clip-path="url(#${id})">`,
  );
  for (const { y: ys, xs, band, color } of curves) {
    if (!band) continue;
    const path = area<number>()
      .defined((i) => usable(band.low[i] as number) && usable(band.high[i] as number))
      .x((i) => x(xs[i] as number))
      .y0((i) => y(band.low[i] as number))
      .y1((i) => y(band.high[i] as number))
      .digits(2)(indices(ys));
    parts.push(`<path d="${path ?? ''}" fill="${escapeXml(color)}" fill-opacity="0.16"/>`);
  }
  for (const reference of references) {
    if (!usable(reference.y)) continue;
    const at = round(y(reference.y));
    parts.push(`<path d="M${left},${at}H${right}" stroke="${muted}" stroke-dasharray="3 3"/>`);
  }
  for (const { y: ys, xs, color, dashed } of curves) {
    const defined = (i: number) => usable(ys[i] as number) && Number.isFinite(xs[i] as number);
    const path = line<number>()
      .defined(defined)
      .x((i) => x(xs[i] as number))
      .y((i) => y(ys[i] as number))
      .digits(2)(indices(ys));
    const dash = dashed ? ' stroke-dasharray="6 4"' : '';
    const stroke = escapeXml(color);
    parts.push(
      `<path d="${path ?? ''}" fill="none" stroke="${stroke}" stroke-width="1.8" stroke-linejoin="round"${dash}/>`,
    );
    // A line through a single value has no length.
    for (const i of indices(ys)) {
      if (!defined(i) || defined(i - 1) || defined(i + 1)) continue;
      parts.push(
        `<circle cx="${round(x(xs[i] as number))}" cy="${round(y(ys[i] as number))}" r="2.5" fill="${stroke}"/>`,
      );
    }
  }
  parts.push('</g>');
  for (const reference of references) {
    if (!reference.label || !usable(reference.y) || y(reference.y) < top - 2 || y(reference.y) > bottom + 2)
      continue;
    const halo = 'stroke="white" stroke-width="3" stroke-linejoin="round" paint-order="stroke"';
    parts.push(
      label(
        right - 2,
        y(reference.y) - 5,
        reference.label,
        `text-anchor="end" font-size="11" fill="${muted}" ${halo}`,
      ),
    );
  }
  return parts.join('\n');
}

/** Names of lines, as many side by side as fit. */
function legendLines<T extends { name: string }>(entries: readonly T[], width: number): T[][] {
  const lines: T[][] = [];
  let used = 0;
  for (const entry of entries) {
    // The sign of the line, and the room around it.
    const wide = textWidth(entry.name, 12) + 36;
    if (lines.length === 0 || used + wide > width) {
      lines.push([]);
      used = 0;
    }
    lines.at(-1)?.push(entry);
    used += wide;
  }
  return lines;
}

function label(x: number, y: number, text: string, style: string): string {
  return `<text x="${round(x)}" y="${round(y)}" ${style}>${escapeXml(text)}</text>`;
}

function indices(values: ArrayLike<number>): number[] {
  return Array.from({ length: values.length }, (_, i) => i);
}

function round(value: number): number {
  return Math.round(value * 100) / 100;
}

function extent(
  lists: readonly ArrayLike<number>[],
  usable: (value: number) => boolean,
): [number, number] | undefined {
  let low = Number.POSITIVE_INFINITY;
  let high = Number.NEGATIVE_INFINITY;
  for (const list of lists) {
    for (let i = 0; i < list.length; i++) {
      const value = list[i] as number;
      if (!usable(value)) continue;
      low = Math.min(low, value);
      high = Math.max(high, value);
    }
  }
  return low <= high ? [low, high] : undefined;
}

/** Room around a constant, which has no extent of its own. */
function widened([low, high]: [number, number], log: boolean): [number, number] {
  if (low !== high) return [low, high];
  if (log) return [low / 2, low * 2];
  const room = Math.abs(low) / 2 || 1;
  return [low - room, low + room];
}

/** Powers of ten within the limits, thinned out; on less than two decades 2 and 5 times them too. */
function decades([low, high]: [number, number], most: number): number[] {
  const first = Math.floor(Math.log10(low) + 1e-9);
  const last = Math.ceil(Math.log10(high) - 1e-9);
  const step = Math.max(1, Math.ceil((last - first) / most));
  const factors = last - first <= 2 ? [1, 2, 5] : [1];
  const ticks: number[] = [];
  for (let exponent = first; exponent <= last; exponent += step) {
    for (const factor of factors) {
      const tick = Number(`${factor}e${exponent}`);
      if (tick >= low * (1 - 1e-9) && tick <= high * (1 + 1e-9)) ticks.push(tick);
    }
  }
  return ticks;
}

/** Equal decimals along a linear axis, a true minus sign, and exponents only where zeros would pile up. */
function tickText(ticks: readonly number[], log: boolean): (tick: number) => string {
  const largest = Math.max(...ticks.map(Math.abs));
  const step = ticks.length > 1 ? Math.abs((ticks[1] as number) - (ticks[0] as number)) : largest || 1;
  const decimals = Math.max(0, -Math.floor(Math.log10(step) + 1e-9));
  // As many as tell neighbours apart.
  const digits = Math.min(12, Math.max(1, Math.floor(Math.log10(largest / step) + 1e-9) + 1));
  return (tick) => {
    let text: string;
    if (log) text = tick >= 1e-3 && tick < 1e5 ? String(tick) : tick.toExponential(0);
    else if (largest >= 1e5 || (largest > 0 && largest < 1e-3))
      text = tick === 0 ? '0' : tick.toExponential(digits);
    else text = tick.toFixed(decimals);
    return text.replace('e+', 'e').replaceAll('-', '−');
  };
}
