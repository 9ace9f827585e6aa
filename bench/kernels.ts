/**
 * `npm run bench`: the heavy operations on this adapter, each against the adapter's roofs and, with `--peers`, against
 * other engines on the same case. A case is a recorded program, replayed; a repetition is one replay (of ten milliseconds of
 * them on a GPU, its share), from its call until the device is idle, and all that is compared is repeated in turns.
 */
import { Device } from '../src/engine/device.ts';
import { sizeOf } from '../src/engine/tensor.ts';
import { writeFileAtomic } from '../src/report/files.ts';
import { formatTable } from '../src/report/table.ts';
import { chooseCases, noise, recordCase } from './cases.ts';
import {
  busyMs,
  dispatched,
  interleave,
  number,
  type PeerTime,
  peerCell,
  peerTime,
  percent,
  positive,
  type Runner,
  refuseFlags,
  repetition,
  roundingOf,
  type Timing,
  take,
  takeOutput,
  variantOf,
} from './measure.ts';
import { checkPeers, difference, openPeers, type Peer, type Prepared } from './peers.ts';
import { bandwidth, measureRoofs, rooflineSvg, roofOf } from './roofline.ts';

export interface Row extends Timing {
  readonly kernel: string;
  readonly pass: string;
  readonly shape: string;
  readonly variant: string;
  readonly adapter: string;
  readonly gflops: number;
  /** The same by `busyMs`. */
  readonly busyGflops: number;
  readonly gbps: number;
  /** Operations a byte that must be moved. */
  readonly intensity: number;
  /** Of what the roofs allow; both by `busyMs`. */
  readonly roofShare: number;
  readonly compileMs: number;
  readonly peers: Readonly<Record<string, PeerTime>>;
  readonly driver: string;
  readonly precision: string;
  /** Of precision f16 against f32, in norm; null in f32. */
  readonly error: number | null;
  readonly date: string;
  /** Of --note, such as what else the machine was doing. */
  readonly note: string;
}

const words = process.argv.slice(2);
const flag = (name: string) => {
  const at = words.indexOf(name);
  if (at >= 0) words.splice(at, 1);
  return at >= 0;
};
const json = takeOutput(words, '--json');
const svg = takeOutput(words, '--svg');
const note = take(words, '--note') ?? '';
const seconds = positive('--seconds', take(words, '--seconds'), 2);
const named = take(words, '--only')?.split(',') ?? [];
const withPeers = flag('--peers');
refuseFlags(words);
checkPeers(named);

const device = await Device.open();
const chosen = chooseCases(words, !device.capabilities.cpu);
if (chosen.length === 0) {
  console.error(`bench: no case contains ${words.join(' ')}`);
  process.exit(2);
}
const { name: adapter, driver } = device.adapter;
const date = new Date().toISOString().slice(0, 10);
console.log(`${adapter}, ${driver || 'driver not stated'}, ${device.adapter.precision}, ${date}`);
const { peers, missing } = withPeers ? await openPeers(device, named) : { peers: [], missing: [] };
for (const { name, about } of peers) console.log(`peer ${name}: ${about}`);
for (const line of missing) console.log(`peer missing: ${line}`);
const roofs = await measureRoofs(device);
console.log(
  `roofs: ${number(roofs.gflops)} GFLOP/s (${roofs.gflopsBy}); copies ${roofs.copies
    .map(({ bytes, gbps }) => `${number(gbps)} GB/s at ${bytes / 2 ** 20} MiB`)
    .join(', ')}\n`,
);

const software = device.capabilities.cpu;
/** Outputs of peers may differ from ours by this share of the largest value: sums of up to 4,608 products. */
const tolerance = device.adapter.precision === 'f16' ? 5e-3 : 2e-4;
const rows: Row[] = [];
/** After every case, so that what interrupts the bench costs one case. */
function save(): void {
  if (json) writeFileAtomic(json, `${JSON.stringify(rows, null, 1)}\n`);
  if (!svg) return;
  const points = rows.map((r) => ({
    label: `${r.kernel} ${r.pass} ${r.shape}`,
    kernel: r.kernel,
    intensity: r.intensity,
    gflops: r.busyGflops,
  }));
  const title = `${adapter}, ${date}${software ? ': by processor time' : ''}`;
  writeFileAtomic(svg, rooflineSvg(title, roofs, points));
}
for (const c of chosen) {
  const data = Object.fromEntries(
    Object.entries(c.inputs).map(([name, shape], i) => [name, noise(sizeOf(shape), i + 1)]),
  );
  const error = await roundingOf(device, () => recordCase(device, c, data));
  const compiled = device.pipelines.compileMs;
  const { program, dispose } = recordCase(device, c, data);
  await program.prepare();
  const variant = variantOf(dispatched(device, () => program.run()));
  const started = performance.now();
  await device.sync();
  // Software drivers finish compiling at the first dispatch, which is therefore counted with it.
  const compileMs = device.pipelines.compileMs - compiled + performance.now() - started;

  const ours: Float32Array[] = [];
  for (const t of program.outputs) ours.push(await t.floats());
  const results: Record<string, PeerTime> = {};
  const runners: Runner[] = [{ name: 'ours', once: await repetition(device, (n) => program.run(n)) }];
  // Peers in JavaScript run one at a time, and so do we beside them; on a software driver all do.
  const beside = software || peers.length === 0 ? 'ours' : 'ours, one at a time';
  if (beside !== 'ours') {
    runners.push({
      name: beside,
      once: async () => {
        program.run();
        await device.sync();
      },
    });
  }
  const differences = new Map<string, number>();
  const open: Prepared[] = [];
  const plain = {
    op: c.op,
    pass: c.pass,
    ...c.settings,
    inputs: Object.fromEntries(
      Object.entries(c.inputs).map(([name, shape]) => [name, { shape, data: data[name] as Float32Array }]),
    ),
  };
  const attach = async (peer: Peer) => {
    const prepared = await peer.prepare(plain);
    open.push(prepared);
    const d = difference(ours, await prepared.result());
    if (!(d <= tolerance))
      throw new Error(`its result differs from ours by ${d.toPrecision(2)} of the largest value`);
    differences.set(peer.name, d);
    runners.push({ name: peer.name, once: () => prepared.once() });
  };
  for (const peer of peers) {
    try {
      await attach(peer);
    } catch (error) {
      results[peer.name] = { error: (error as Error).message.split('\n')[0] || String(error) };
    }
  }
  const times = await interleave(runners, { seconds });
  const own = times.get('ours');
  if (!own || own instanceof Error) throw own ?? new Error('no times');
  const single = times.get(beside);
  if (!single || single instanceof Error) throw single ?? new Error('no times');
  for (const [name, time] of times) {
    if (name === 'ours' || name === beside) continue;
    const against = name.startsWith('torch') ? own : single;
    const result = peerTime(time, against);
    results[name] = 'error' in result ? result : { ...result, difference: differences.get(name) };
  }
  for (const prepared of open) await prepared.dispose();
  dispose();
  device.trim();
  const gflops = c.flops / own.medianMs / 1e6;
  const busyGflops = c.flops / busyMs(device, own) / 1e6;
  rows.push({
    kernel: c.kernel,
    pass: c.pass,
    shape: c.shape,
    variant,
    adapter,
    ...own,
    gflops,
    busyGflops,
    gbps: c.bytes / own.medianMs / 1e6,
    intensity: c.flops / c.bytes,
    roofShare: busyGflops / roofOf(roofs, c.flops, c.bytes),
    compileMs,
    peers: results,
    driver,
    precision: device.adapter.precision,
    error,
    date,
    note,
  });
  const ratios = peers.map(({ name }) => `${name} ${peerCell(results[name], device) || '–'}`);
  console.error(`${c.kernel} ${c.pass} ${c.shape}: ${number(own.medianMs)} ms ${ratios.join(', ')}`);
  save();
}

const cells = (r: Row) => [
  r.kernel,
  r.pass,
  r.shape,
  r.variant,
  number(r.medianMs),
  r.spread.map(number).join('..'),
  number(r.gflops),
  number(r.gbps),
  percent(r.roofShare),
  number(r.compileMs),
  ...(r.error === null ? [] : [r.error.toExponential(1)]),
];
console.log(
  formatTable(
    [
      'kernel',
      'pass',
      'shape',
      'variant',
      'median ms',
      'quartiles',
      'GFLOP/s',
      'GB/s',
      'of roof',
      'compile ms',
      ...(device.adapter.precision === 'f16' ? ['f16 error'] : []),
    ],
    rows.map(cells),
  ),
);
console.log(
  `\nof roof: of min(${number(roofs.gflops)} GFLOP/s, operations a byte x ${number(bandwidth(roofs, 1))} to ${number(bandwidth(roofs, 2 ** 40))} GB/s by size)`,
);
if (peers.length > 0) {
  console.log(
    `\nTime of a peer over ours${software ? ' (processor time over ours)' : ''}\n${formatTable(
      ['kernel', 'pass', 'shape', ...peers.map((p) => p.name)],
      rows.map((r) => [r.kernel, r.pass, r.shape, ...peers.map((p) => peerCell(r.peers[p.name], device))]),
    )}`,
  );
  const errors = rows.flatMap((r) =>
    Object.entries(r.peers).flatMap(([name, result]) =>
      'error' in result ? [`no: ${name}, ${r.kernel} ${r.pass} ${r.shape}: ${result.error}`] : [],
    ),
  );
  if (errors.length > 0) console.log(`\n${errors.join('\n')}`);
}
for (const peer of peers) await peer.close?.();
process.exit(0);
