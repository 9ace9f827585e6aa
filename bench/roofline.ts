/**
 * The roofs of an adapter, measured on it (Williams et al. 2009): no kernel computes faster than the peak of
 * multiply-adds, nor than its operations a byte times the bandwidth.
 */
import { scaleLog } from 'd3-scale';
import type { Device } from '../src/engine/device.ts';
import { kernel, linearGrid } from '../src/engine/kernel.ts';
import { escapeXml, fontFamily } from '../src/report/raster.ts';
import copySource from './copy.wgsl';
import { busyMs, interleave, type Runner, repetition } from './measure.ts';
import fmaSource from './peak-fma.wgsl';

export interface Roofs {
  readonly gflops: number;
  /** The kernel that reached it. */
  readonly gflopsBy: string;
  /** Copies, read and write counted, by bytes that both sides take: smaller ones may stay in caches. */
  readonly copies: readonly { readonly bytes: number; readonly gbps: number }[];
}

/** The text of CHAINS chains, eight multiply-adds each a round. */
function chainText(chains: number): string {
  const all = Array.from({ length: chains }, (_, i) => `c${i}`);
  const step = all.map((c) => `${c} = ${c} * m + a;`).join(' ');
  return `fn chains(v: T, m: T, a: T, rounds: u32) -> T {
  ${all.map((c, i) => `var ${c} = v + T(${i}.0);`).join(' ')}
  for (var r = 0u; r < rounds; r++) {
    ${Array.from({ length: 8 }, () => step).join('\n    ')}
  }
  return ${all.join(' + ')};
}`;
}

/** Takes about ten seconds on a software driver. */
export async function measureRoofs(device: Device): Promise<Roofs> {
  const gpu = !device.capabilities.cpu;
  const x = device.tensor([0.5, 0.5]);
  const peaks = [
    [1, 4],
    [1, 8],
    [4, 1],
    [4, 2],
    [4, 3],
    [4, 4],
  ].map(([lanes, chains]) => ({ lanes: lanes as number, chains: chains as number }));
  const count = gpu ? 2 ** 20 : 2 ** 13;
  const programs = peaks.map(({ lanes, chains }) => {
    const rounds = Math.ceil((gpu ? 512 : 256) / (lanes * chains)) * 4;
    const T = lanes === 4 ? 'vec4<f32>' : 'f32';
    const k = kernel('peak-fma', fmaSource + chainText(chains), { T, CHAINS: chains });
    const program = device.record(`peak ${T} ${chains}`, () => {
      const y = device.empty([count * lanes]);
      device.run(k, { x, y }, { count, rounds }, linearGrid(count));
      return y;
    });
    return { program, flops: 2 * count * rounds * 8 * chains * lanes, name: `${chains} chains of ${T}` };
  });
  for (const { program } of programs) await program.prepare();
  const runners: Runner[] = [];
  for (const { program, name } of programs)
    runners.push({ name, once: await repetition(device, (n) => program.run(n)) });
  const times = await interleave(runners, { seconds: 0.5, least: 5, most: 20 });
  let best = { gflops: 0, gflopsBy: '' };
  for (const { name, flops, program } of programs) {
    const time = times.get(name);
    if (time instanceof Error || !time) throw time ?? new Error(name);
    const gflops = flops / busyMs(device, time) / 1e6;
    if (gflops > best.gflops) best = { gflops, gflopsBy: name };
    program.dispose();
  }
  const copies: { bytes: number; gbps: number }[] = [];
  for (const bytes of gpu ? [2 ** 24, 2 ** 27, 2 ** 30] : [2 ** 21, 2 ** 24, 2 ** 27]) {
    const elements = bytes / 8;
    const passes = Math.max(1, 2 ** 25 / bytes);
    const from = device.zeros([elements]);
    const to = device.empty([elements]);
    const byKernel = [1, 8].map((each) => {
      const program = device.record(`copy ${bytes} by ${each}`, () => {
        const k = kernel('copy', copySource, { EACH: each });
        const grid = linearGrid(elements / 4 / each);
        for (let i = 0; i < passes; i++) device.run(k, { x: from, y: to }, { count: elements / 4 }, grid);
      });
      const run = (times: number) => void program.run(times);
      return { name: `kernel ${each}`, run, dispose: () => program.dispose() };
    });
    const byDriver = {
      name: 'driver',
      run(times: number) {
        const encoder = device.handle.createCommandEncoder();
        for (let i = 0; i < passes * times; i++)
          encoder.copyBufferToBuffer(device.bufferOf(from), 0, device.bufferOf(to), 0, 4 * elements);
        device.handle.queue.submit([encoder.finish()]);
      },
      dispose() {},
    };
    const ways = [...byKernel, byDriver];
    const runners: Runner[] = [];
    for (const { name, run } of ways) runners.push({ name, once: await repetition(device, run) });
    const times = await interleave(runners, { seconds: 0.5, least: 5, most: 20 });
    const best = Math.min(
      ...[...times.values()].map((time) =>
        time instanceof Error ? Number.POSITIVE_INFINITY : busyMs(device, time),
      ),
    );
    copies.push({ bytes, gbps: (passes * bytes) / best / 1e6 });
    for (const way of ways) way.dispose();
    for (const t of [from, to]) t.dispose();
  }
  x.dispose();
  device.trim();
  return { ...best, copies };
}

/** The bandwidth of what takes `bytes`: of the smallest copy that is no smaller. */
export function bandwidth(roofs: Roofs, bytes: number): number {
  return (roofs.copies.find((c) => c.bytes >= bytes) ?? (roofs.copies.at(-1) as Roofs['copies'][number]))
    .gbps;
}

/** The most GFLOP/s that a pass of so many operations and bytes can reach. */
export function roofOf(roofs: Roofs, flops: number, bytes: number): number {
  return Math.min(roofs.gflops, (flops / bytes) * bandwidth(roofs, bytes));
}

export interface Point {
  readonly label: string;
  readonly kernel: string;
  /** Operations a byte. */
  readonly intensity: number;
  /** By `busyMs`, as the roofs. */
  readonly gflops: number;
}

const palette = ['#0072b2', '#d55e00', '#009e73', '#cc79a7'];
const ink = '#24292f';
const muted = '#57606a';

/** Both axes logarithmic; a line a roof, a numbered point a case, and the cases as a list beside it. */
export function rooflineSvg(title: string, roofs: Roofs, points: readonly Point[]): string {
  const width = 980;
  const height = Math.max(460, 100 + 15 * points.length);
  const [left, right, top, bottom] = [60, 600, 60, height - 50];
  const intensities = points.map((p) => p.intensity);
  const xs = [Math.min(0.25, ...intensities) / 1.5, Math.max(64, ...intensities) * 1.5] as [number, number];
  const ys = [Math.min(...points.map((p) => p.gflops), roofs.gflops / 100) / 1.5, roofs.gflops * 2] as [
    number,
    number,
  ];
  const x = scaleLog().domain(xs).range([left, right]);
  const y = scaleLog().domain(ys).range([bottom, top]);
  const at = (v: number) => v.toFixed(1);
  const text = (px: number, py: number, content: string, style = '', size = 11) =>
    `<text x="${at(px)}" y="${at(py)}" font-size="${size}" fill="${muted}" ${style}>${escapeXml(content)}</text>`;
  const parts = [
    '<rect width="100%" height="100%" fill="white"/>',
    `<text x="20" y="30" font-size="16" font-weight="600" fill="${ink}">${escapeXml(title)}</text>`,
  ];
  for (const tick of x
    .ticks()
    .filter((t) => Number.isInteger(Math.log10(t)) || /^[25]/.test(t.toPrecision(1))))
    parts.push(
      `<path d="M${at(x(tick))},${bottom}V${top}" stroke="#e6e8eb"/>`,
      text(x(tick), bottom + 16, String(tick), 'text-anchor="middle"'),
    );
  for (const tick of y
    .ticks()
    .filter((t) => Number.isInteger(Math.log10(t)) || /^[25]/.test(t.toPrecision(1))))
    parts.push(
      `<path d="M${left},${at(y(tick))}H${right}" stroke="#e6e8eb"/>`,
      text(left - 6, y(tick) + 4, String(tick), 'text-anchor="end"'),
    );
  parts.push(
    text((left + right) / 2, bottom + 36, 'operations a byte that must be moved', 'text-anchor="middle"'),
    text(
      16,
      (top + bottom) / 2,
      'GFLOP/s',
      `text-anchor="middle" transform="rotate(-90 16 ${(top + bottom) / 2})"`,
    ),
  );
  const peakAt = y(roofs.gflops);
  parts.push(
    `<path d="M${left},${at(peakAt)}H${right}" stroke="${ink}" stroke-width="1.6"/>`,
    text(right - 4, peakAt - 6, `multiply-adds ${roofs.gflops.toFixed(1)} GFLOP/s`, 'text-anchor="end"'),
  );
  const copies = [roofs.copies[0], roofs.copies.at(-1)] as Roofs['copies'][number][];
  copies.forEach(({ bytes, gbps }, i) => {
    const knee = roofs.gflops / gbps;
    const from = Math.max(xs[0], ys[0] / gbps);
    if (knee <= from) return;
    parts.push(
      `<path d="M${at(x(from))},${at(y(from * gbps))}L${at(x(Math.min(knee, xs[1])))},${at(y(Math.min(knee, xs[1]) * gbps))}" stroke="${ink}" stroke-width="1.6"${i === 0 ? ' stroke-dasharray="5 4"' : ''}/>`,
      text(
        left + 8,
        top + 14 + 15 * i,
        `${i === 0 ? 'dashed' : 'solid'}: copies of ${bytes / 2 ** 20} MiB, ${gbps.toFixed(1)} GB/s`,
      ),
    );
  });
  const kernels = [...new Set(points.map((p) => p.kernel))];
  points.forEach((p, i) => {
    const color = palette[kernels.indexOf(p.kernel) % palette.length];
    const [px, py] = [x(p.intensity), y(p.gflops)];
    parts.push(
      `<circle cx="${at(px)}" cy="${at(py)}" r="4" fill="${color}"/>`,
      text(px + 6, py - 3 + 8 * (i % 2), String(i + 1), '', 9),
      `<text x="${right + 24}" y="${top + 15 * i + 10}" font-size="11" fill="${color}">${i + 1}  ${escapeXml(p.label)}: ${p.gflops.toPrecision(3)}</text>`,
    );
  });
  return `<svg xmlns="http://www.w3.org/2000/svg" width="${width}" height="${height}" viewBox="0 0 ${width} ${height}" font-family="${fontFamily}">\n${parts.join('\n')}\n</svg>\n`;
}
