/**
 * `npm run bench -- --train`: updates of the trainer at the presets' networks, batches made ahead by its threads, as a run
 * makes them but for what it saves and shows; and the same loop in PyTorch, whose images lie on its device. A repetition
 * is a few updates, of which the host queues the next while the device is at work.
 */
import { sizeOf } from '../src/engine/tensor.ts';
import { writeFileAtomic } from '../src/report/files.ts';
import { formatTable } from '../src/report/table.ts';
import { configure } from '../src/train/config.ts';
import { networkOf, Session } from '../src/train/session.ts';
import { noise } from './cases.ts';
import type { Row } from './kernels.ts';
import {
  busyMs,
  interleave,
  number,
  openRun,
  type PeerTime,
  peerCell,
  peerTime,
  type Runner,
  type Timing,
  take,
  wordsAfter,
} from './measure.ts';
import { torchOrProblem } from './peers.ts';
import { referenceConfig } from './torch.ts';

/** Presets, with the reference's arguments where the network is no NCSN++ or known by name alone. */
const cases: readonly (readonly [preset: string, reference?: object])[] = [
  ['fashion-mnist-edm'],
  ['fashion-mnist-ct'],
  ['fashion-mnist-ect'],
  ['fashion-mnist-wrn', { depth: 10, widen_factor: 1, in_channels: 1, image_size: 28 }],
  ['cifar10-edm'],
  ['cifar10-ect'],
  ['cifar10-wrn', { depth: 16, widen_factor: 4 }],
];

/** What --json writes of a preset; times are of one update. */
export interface UpdateRow extends Omit<Row, 'gbps' | 'intensity' | 'roofShare' | 'error'> {
  readonly imagesPerSecond: number;
  readonly plannedBytes: number;
  readonly dispatches: number;
}

const words = wordsAfter('--train');
const note = take(words, '--note') ?? '';
const { json, only, wanted, device, repetitions, date } = await openRun(words);
const { cpu } = device.capabilities;
const updates = cpu ? 1 : 10;
const { name: adapter, driver, precision } = device.adapter;
const { torch, problem } = await torchOrProblem();

const each = (t: Timing): Timing => ({
  ...t,
  medianMs: t.medianMs / updates,
  spread: [t.spread[0] / updates, t.spread[1] / updates],
  minMs: t.minMs / updates,
  cpuMs: t.cpuMs / updates,
});

async function measure(preset: string, reference?: object): Promise<UpdateRow> {
  const config = configure(preset, cpu ? ['batch=8'] : []);
  const net = networkOf(config);
  const side = net.kind === 'classifier' ? net.architecture.imageShape : net.unet.imageShape;
  const shape = [1024, ...side] as [number, number, number, number];
  const images = Uint8Array.from(noise(sizeOf(shape), 1), (v) => 127.5 + 127 * v);
  const labels = Array.from({ length: 1024 }, (_, i) => i % 10);
  const train = { name: 'noise', images, labels, shape };
  const session = await Session.open(device, config, { train, test: null, classes: 10 });
  const { batches, step } = session;
  const began = performance.now();
  await step.program.prepare();
  let t = 0;
  const once = async (count: number) => {
    for (const end = t + count; t < end; t++) {
      await batches.ready(t);
      step.run(t);
    }
    await device.sync();
  };
  await once(1);
  const compileMs = performance.now() - began;
  const runners: Runner[] = [{ name: 'ours', once: () => once(updates) }];
  let peerError = problem;
  if (torch) {
    const { task, batch, optimiser, smoothing, averages, log_mean, log_std } = config;
    const request = {
      task,
      batch,
      optimiser,
      smoothing,
      log_mean,
      log_std,
      updates,
      averages: averages.length,
    };
    try {
      const own = { ...request, config: reference ?? referenceConfig(config.net_config) };
      runners.push(...(await torch.runners({ training: own })));
    } catch (error) {
      peerError = (error as Error).message;
    }
  }
  const times = await interleave(runners, { seconds: 0, least: repetitions, most: repetitions });
  const measured = times.get('ours');
  if (!measured || measured instanceof Error) throw measured ?? new Error(preset);
  const own = each(measured);
  const peers: Record<string, PeerTime> = runners.length > 1 ? {} : { torch: { error: peerError } };
  for (const [name, time] of times)
    if (name !== 'ours') peers[name] = peerTime(time instanceof Error ? time : each(time), own);
  const { flops, plannedBytes, dispatches } = step.program.cost;
  session.dispose();
  device.trim();
  return {
    kernel: preset,
    pass: 'update',
    shape: `${config.batch} images`,
    variant: config.task,
    adapter,
    ...own,
    imagesPerSecond: (1000 * config.batch) / own.medianMs,
    gflops: flops / own.medianMs / 1e6,
    busyGflops: flops / busyMs(device, own) / 1e6,
    plannedBytes,
    dispatches,
    compileMs,
    peers,
    driver,
    precision,
    date,
    note,
  };
}

const rows: UpdateRow[] = [];
for (const [preset, reference] of cases) {
  if (!wanted(preset)) continue;
  const row = await measure(preset, reference);
  rows.push(row);
  console.error(`${preset}: ${number(row.imagesPerSecond)} images/s`);
  if (json) writeFileAtomic(json, `${JSON.stringify(rows, null, 1)}\n`);
}
if (rows.length === 0) {
  console.error(
    `bench: no preset contains ${only?.join(' or ')}; there are ${cases.map(([p]) => p).join(', ')}`,
  );
  process.exit(2);
}
const names = [...new Set(rows.flatMap((r) => Object.keys(r.peers)))];
console.log(
  `\n${formatTable(
    ['preset', 'batch', 'images/s', 'ms', 'quartiles', 'GFLOP/s', 'dispatches', 'MB', 'first ms', ...names],
    rows.map((r) => [
      r.kernel,
      r.shape,
      number(r.imagesPerSecond),
      number(r.medianMs),
      r.spread.map(number).join('..'),
      number(r.gflops),
      r.dispatches,
      (r.plannedBytes / 1e6).toFixed(0),
      number(r.compileMs),
      ...names.map((name) => peerCell(r.peers[name], device)),
    ]),
  )}`,
);
for (const r of rows)
  for (const [name, peer] of Object.entries(r.peers))
    if ('error' in peer) console.log(`no: ${name}: ${r.kernel}: ${peer.error}`);
torch?.close();
process.exit(0);
